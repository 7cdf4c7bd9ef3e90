"""The runs that wait, by shape (executor class, request and tenant), each shape in the order of placement."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.model import Reason, ResourceRequest, WaitingTask
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.policy import Order
from celeray.scheduler.tenants import NOBODY

Shape = tuple[str, ResourceRequest, str | None]
"""Executor class, request, and tenant. Shapes that differ in the tenant alone have the same places, and other turns."""
GONE_MOST = 1000
"""Shapes of which nothing waits any more, and whose count is kept."""
LEVELS = 10
"""Lists of a queue; `Run.level` is below it."""


def _order(run: Run) -> tuple[int, int, int]:
    return run.order


class WaitingRuns:
    """A sorted list a shape. Tasks of one shape are alike but for their order, so a cycle needs only the first few."""

    def __init__(self, order: Order | None = None) -> None:
        self._order = order or Order()
        self._shapes: dict[Shape, list[Run]] = {}
        self._size = 0
        self._departed: dict[Shape, int] = {}
        self._levels: list[int] = [0] * LEVELS
        self._overtaken: dict[ResourceRequest, dict[int, int]] = {}
        """How often tasks of a request were overtaken, by priority; kept as long as some of them wait."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Run]:
        for runs in list(self._shapes.values()):
            yield from list(runs)

    def add(self, run: Run) -> None:
        """Insert at its place."""
        run.order = order_key(run.task, self._order)
        run.overtaken_before = self._count_of(run) - run.overtaken
        insort(self._shapes.setdefault(run.shape, []), run, key=_order)
        self._size += 1
        self._levels[run.level] += 1

    def remove(self, run: Run) -> None:
        """Take out.

        Raises:
            ValueError: the run does not wait.
        """
        runs = self._shapes.get(run.shape, [])
        place = bisect_left(runs, _order(run), key=_order)
        if place == len(runs) or runs[place] is not run:
            raise ValueError(f"run {run.run_id} does not wait")
        del runs[place]
        run.overtaken = self._times_overtaken(run)
        self._size -= 1
        self._levels[run.level] -= 1
        self._departed[run.shape] = self._departed.get(run.shape, 0) + 1
        if not runs:
            del self._shapes[run.shape]
            self._forget_departed()

    def heads(self, limit: Callable[[Shape], int], *, urgent: int | None = None) -> dict[int, Run]:
        """The first `limit(shape)` runs of each shape, by sequence number. A limit of 0 leaves the shape out.

        Where any were overtaken, those of each priority come with them that were so most: the ones that came first.

        Args:
            urgent: the first run of at least this priority comes with them too, however many have grown old before it.
                None: it does not.
        """
        found = {
            run.task.sequence: run for shape, runs in self._shapes.items() for run in runs[: limit(shape)]
        }
        for shape, runs in self._shapes.items() if self._overtaken else ():
            for priority in self._overtaken.get(shape[1], ()):
                alike = (run for run in runs if run.task.priority == priority)
                if limit(shape) and (first := next(alike, None)):
                    found[first.task.sequence] = first
        if urgent is not None:
            found |= {run.task.sequence: run for run in self._urgent(urgent) if limit(run.shape)}
        return found

    def _urgent(self, least: int) -> Iterator[Run]:
        """Of each shape the first of at least this priority for which no others were ended yet."""
        for runs in self._shapes.values():
            found = (run for run in runs if run.task.priority >= least and not run.task.first)
            yield from islice(found, 1)

    def tasks(self, heads: Mapping[int, Run]) -> tuple[WaitingTask, ...]:
        """The heads as placement takes them."""
        if not self._overtaken:
            return tuple(run.task for run in heads.values())
        return tuple(replace(run.task, overtaken=self._times_overtaken(run)) for run in heads.values())

    def overtaken(self, counts: Mapping[tuple[ResourceRequest, int], int]) -> None:
        """What a cycle decided has overtaken tasks of these requests and priorities so often."""
        for (request, priority), count in counts.items():
            known = self._overtaken.setdefault(request, {})
            known[priority] = known.get(priority, 0) + count
        if len(self._overtaken) > len(self._shapes):
            waiting = {request for _, request, _ in self._shapes}
            self._overtaken = {
                request: known for request, known in self._overtaken.items() if request in waiting
            }

    def _count_of(self, run: Run) -> int:
        return self._overtaken.get(run.request, {}).get(run.task.priority, 0)

    def _times_overtaken(self, run: Run) -> int:
        return self._count_of(run) - run.overtaken_before

    def behind(self, head: Run, most: int, *, without: Collection[int]) -> list[Run]:
        """At most `most` runs of the head's shape that come after it, leaving out those numbers."""
        runs = self._shapes.get(head.shape, [])
        begin = bisect_left(runs, _order(head), key=_order) + 1
        return list(islice((run for run in runs[begin:] if run.run_id not in without), most))

    def shapes(self) -> dict[Shape, list[Run]]:
        """A copy of the whole, for reading while it changes."""
        return {shape: list(runs) for shape, runs in self._shapes.items()}

    def of(self, shape: Shape) -> list[Run]:
        """The runs of a shape. Not to be changed."""
        return self._shapes.get(shape, [])

    def counts(self) -> dict[Shape, int]:
        """How many there are of each shape."""
        return {shape: len(runs) for shape, runs in self._shapes.items()}

    def tenants(self) -> set[str]:
        """Whose runs wait, and `NOBODY`, which stands for those of no tenant. Empty where no tenant is named."""
        named = {tenant for _, _, tenant in self._shapes if tenant is not None}
        return {*named, NOBODY} if named else named

    def departed(self, shape: Shape) -> int:
        """How many of a shape have left so far. Of one that was gone for long it may begin at 0 again."""
        return self._departed.get(shape, 0)

    def _forget_departed(self) -> None:
        if len(self._departed) > GONE_MOST + len(self._shapes):
            self._departed = {shape: left for shape, left in self._departed.items() if shape in self._shapes}

    def at_least_urgent_level(self) -> tuple[int, int]:
        """The last level of which any run waits, and how many of it do. (0, 0): none waits."""
        return next(
            ((level, self._levels[level]) for level in range(LEVELS - 1, -1, -1) if self._levels[level]),
            (0, 0),
        )

    def mark(self, shape: Shape, reason: Reason | None) -> None:
        """Give the reason to all runs of the shape that were not looked at one by one."""
        for run in self._shapes.get(shape, ()):
            run.reason = reason
