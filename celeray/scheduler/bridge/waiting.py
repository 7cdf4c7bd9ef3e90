"""The runs that wait, by shape (executor class and request), each shape in the order of placement."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.model import Reason, ResourceRequest, WaitingTask

Shape = tuple[str, ResourceRequest]


def _order(run: Run) -> tuple[int, int]:
    return (-run.task.priority, run.task.sequence)


class WaitingRuns:
    """A sorted list a shape. Tasks of one shape are alike but for their order, so a cycle needs only the first few."""

    def __init__(self) -> None:
        self._shapes: dict[Shape, list[Run]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Run]:
        for runs in list(self._shapes.values()):
            yield from list(runs)

    def add(self, run: Run) -> None:
        """Insert at its place."""
        insort(self._shapes.setdefault(run.shape, []), run, key=_order)
        self._size += 1

    def remove(self, run: Run) -> None:
        """Take out.

        Raises:
            ValueError: the run does not wait.
        """
        runs = self._shapes.get(run.shape, [])
        runs.remove(run)
        self._size -= 1
        if not runs:
            del self._shapes[run.shape]

    def heads(self, limit: Callable[[Shape], int]) -> dict[int, Run]:
        """The first `limit(shape)` runs of each shape, by sequence number. A limit of 0 leaves the shape out."""
        return {
            run.task.sequence: run for shape, runs in self._shapes.items() for run in runs[: limit(shape)]
        }

    def shapes(self) -> dict[Shape, list[Run]]:
        """A copy of the whole, for reading while it changes."""
        return {shape: list(runs) for shape, runs in self._shapes.items()}

    def mark(self, shape: Shape, reason: Reason | None) -> None:
        """Give the reason to all runs of the shape that were not looked at one by one."""
        for run in self._shapes.get(shape, ()):
            run.reason = reason


def tasks(heads: dict[int, Run]) -> tuple[WaitingTask, ...]:
    """The heads as placement takes them."""
    return tuple(run.task for run in heads.values())
