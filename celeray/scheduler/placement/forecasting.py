"""When tasks will begin: the same `place`, cycle after cycle, on a virtual clock.

What runs ends when it is expected to, and one of which nothing is known after `policy.order.unknown_run_ms`. Nothing
new comes, nor what was put back for an urgent task, and loading an app takes no time. So a forecast is as good as the
expected run times are; with a guess in it, `known` is False, and a guess upon a guess is no forecast.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from celeray.scheduler.model import (
    Decisions,
    Isolation,
    Placement,
    Preemption,
    Reason,
    ResourceRequest,
    Snapshot,
    WaitingTask,
)
from celeray.scheduler.placement.cycle import place
from celeray.scheduler.placement.fair_share import expected_charge
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.preempting import URGENT
from celeray.scheduler.placement.recording import CycleInput
from celeray.scheduler.placement.virtual_cluster import VirtualCluster
from celeray.scheduler.tenants import NOBODY

CYCLES_MOST = 400
"""Of one forecast: what is farther away is not said. It is about two hundred ends of tasks."""
LOOKED_AT_MOST = 50_000
"""Tasks and devices that the cycles of one forecast look at together: a second or two."""
GUESSES_MOST = 1
"""So many guessed run times may stand behind each other."""


class NoForecast(StrEnum):
    """Why it is not said when a task begins. The list is closed."""

    NEVER_FITS = "never_fits"
    UNKNOWN_RUN_TIMES = "unknown_run_times"
    """It goes by run times of which nothing is known, one after another."""
    NOTHING_ENDS = "nothing_ends"
    """No end of what runs or waits makes room for it."""
    BOUND_REACHED = "bound_reached"
    """It is farther away than is looked."""
    EXECUTOR_FAILED = "executor_failed"
    """Executors of its class do not start."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one task."""

    starts_in_ms: int | None
    """When it begins, from the cycle's instant. None: that can't be said."""
    known: bool = False
    """Whether it rests on expected run times only, and on no guess."""
    why: NoForecast | None = None
    """Why there is none. None: there is one."""
    reason: Reason | None = None
    """Why the first cycle, which is the bridge's next, has no place for it. None: it has."""
    placement: Placement | None = None
    """Where it begins, where that is said. An executor whose id begins with `virtual_cluster.NEW` is one that has to be
    started first."""


def forecast(
    cycle: CycleInput, wanted: Collection[int], *, cycles_most: int = CYCLES_MOST
) -> dict[int, Forecast]:
    """When the wanted tasks of a cycle begin.

    Args:
        cycle: what waits, and the cluster.
        wanted: sequence numbers of tasks that wait in it.

    Returns:
        A forecast of each of them, by sequence number.
    """
    return _Simulation(cycle, wanted).run(cycles_most)


Shape = tuple[str, ResourceRequest, str | None]


class _Simulation:
    """The waiting tasks and the cluster at one instant of the virtual clock."""

    def __init__(self, cycle: CycleInput, wanted: Collection[int]) -> None:
        self._policy = cycle.policy
        self._left = set(wanted)
        self._found: dict[int, Forecast] = {}
        self._reasons: dict[int, Reason | None] | None = None
        """Of the wanted tasks, as the first cycle says them."""
        self._now_ms = 0
        self._reserved = cycle.snapshot.reserved
        self._tenants = dict(cycle.snapshot.tenants)
        self._looked_at = 0
        self._guesses = 0
        """How many guessed times stand behind each other in what has ended so far."""
        self._tasks = {task.sequence: task for task in cycle.waiting}
        self._shapes: dict[Shape, list[WaitingTask]] = {}
        for task in sorted(cycle.waiting, key=lambda t: order_key(t, cycle.policy.order)):
            self._shapes.setdefault(_shape(task), []).append(task)
        self._overtaken: dict[tuple[ResourceRequest, int], int] = {}
        self._cluster = VirtualCluster(
            cycle.snapshot, {name: request.cpus_milli for name, request, _ in self._shapes}
        )
        self._ends: list[tuple[int, str, int]] = []
        """Of each busy executor: when its task ends, its id, and the guesses behind that."""
        self._known: dict[str, int] = {}
        """Of those of which it is no guess, when."""
        self._stays = sorted({e.stays_ms for e in cycle.snapshot.executors if e.stays_ms}, reverse=True)
        """When idle executors may end for others, the last one first."""
        for executor in cycle.snapshot.executors:
            if not (executor.idle or executor.starting):
                self._ends_after(executor.executor_id, executor.ends_in_ms)

    def run(self, cycles_most: int) -> dict[int, Forecast]:
        """Go on until all that is wanted has begun, or it is known why not."""
        why = NoForecast.BOUND_REACHED
        for _ in range(cycles_most):
            if not self._left or self._looked_at > LOOKED_AT_MOST:
                break
            if self._guesses > GUESSES_MOST:
                why = NoForecast.UNKNOWN_RUN_TIMES
                break
            if not self._cycle() and not self._advance():
                why = NoForecast.NOTHING_ENDS
                break
        for sequence in self._left:
            self._found[sequence] = Forecast(None, why=why, reason=(self._reasons or {}).get(sequence))
        return self._found

    def _cycle(self) -> bool:
        """Place once, and carry it out. Returns whether another cycle may place more at the same instant."""
        known = {executor_id: at - self._now_ms for executor_id, at in self._known.items()}
        snapshot = self._cluster.snapshot(self._now_ms, known)
        snapshot = replace(snapshot, reserved=self._reserved, tenants=self._tenants)
        heads = self._heads(snapshot)
        self._looked_at += len(heads) + sum(len(node.devices) for node in snapshot.nodes)
        decisions = place(heads, snapshot, self._policy)
        self._reserved = decisions.reserved
        if self._reasons is None:
            self._reasons = self._reasons_in(decisions)
        for placement in decisions.placements:
            self._carry_out(self._tasks[placement.sequence], placement)
        self._cluster.evict(decisions.evictions)
        for preemption in decisions.preemptions:
            self._preempt(preemption)
        for key, count in decisions.overtaken.items():
            self._overtaken[key] = self._overtaken.get(key, 0) + count
        self._drop_hopeless(decisions)
        if decisions.placements:
            self._stays = sorted({*self._stays, self._now_ms + 1}, reverse=True)
        settled = self._cluster.settle(self._now_ms)
        # What was kept for a task in a cycle that also placed others may be less in the next one.
        return settled or bool(decisions.placements and decisions.reserved)

    def _preempt(self, preemption: Preemption) -> None:
        """Runs end for an urgent task, which comes first from then on."""
        self._cluster.preempt(preemption.executor_ids)
        for executor_id in preemption.executor_ids:
            self._known.pop(executor_id, None)
        task = self._tasks[preemption.sequence]
        self._tasks[task.sequence] = urgent = replace(task, first=True)
        tasks = self._shapes[_shape(task)]
        tasks.remove(task)
        tasks.insert(0, urgent)

    def _heads(self, snapshot: Snapshot) -> list[WaitingTask]:
        """As many of each shape as could find a place, and one more; of each priority that was overtaken the first.

        Where runs may be ended for urgent tasks, the first of these too.
        """
        starts = sum(node.starts_free for node in snapshot.nodes)
        ready = Counter(e.executor_class for e in snapshot.executors if e.idle or e.starting)
        heads: dict[int, WaitingTask] = {}
        for shape, tasks in self._shapes.items():
            heads |= {task.sequence: task for task in tasks[: ready[shape[0]] + starts + 1]}
            firsts: dict[int, WaitingTask] = {}
            for task in tasks if self._overtaken else ():
                firsts.setdefault(task.priority, task)
            among = tasks if self._policy.order.preempt else ()
            urgent = (task for task in among if task.priority >= URGENT and not task.first)
            heads |= {task.sequence: task for task in (*firsts.values(), *islice(urgent, 1))}
        return [self._as_overtaken(task) for task in heads.values()]

    def _as_overtaken(self, task: WaitingTask) -> WaitingTask:
        more = self._overtaken.get((task.request, task.priority), 0)
        return replace(task, overtaken=task.overtaken + more) if more else task

    def _reasons_in(self, decisions: Decisions) -> dict[int, Reason | None]:
        """What was not looked at is alike to the last of its shape that was."""
        placed = {placement.sequence for placement in decisions.placements}
        found: dict[int, Reason | None] = {}
        for tasks in self._shapes.values():
            reason = None
            for task in tasks:
                if task.sequence in placed:
                    found[task.sequence] = None
                else:
                    found[task.sequence] = reason = decisions.waiting.get(task.sequence, reason)
        return found

    def _carry_out(self, task: WaitingTask, placement: Placement) -> None:
        if placement.executor_id is None and task.request.isolation is Isolation.WARM:
            # It takes the first waiting task of its class in the next cycle.
            self._cluster.start(task, placement)
            return
        executor_id = self._cluster.begin(task, placement)
        if self._tenants:
            mib = placement.memory_mib * len(placement.device_uuids)
            tenant = task.tenant or NOBODY
            self._tenants[tenant] = self._tenants.get(tenant, 0) + expected_charge(
                task, mib, self._policy.order
            )
        if task.sequence in self._left:
            self._left.remove(task.sequence)
            reason = (self._reasons or {}).get(task.sequence)
            self._found[task.sequence] = Forecast(self._now_ms, self._guesses == 0, None, reason, placement)
        self._ends_after(executor_id, task.expected_ms)
        tasks = self._shapes[_shape(task)]
        tasks.remove(task)
        if not tasks:
            del self._shapes[_shape(task)]

    def _ends_after(self, executor_id: str, run_ms: int | None) -> None:
        """A guess counts upon those that have led to here."""
        after = self._policy.order.unknown_run_ms if run_ms is None else run_ms
        if run_ms is not None:
            self._known[executor_id] = self._now_ms + after
        heapq.heappush(self._ends, (self._now_ms + after, executor_id, self._guesses + (run_ms is None)))

    def _advance(self) -> bool:
        """Go to the next end, of a task or of an executor's stay. Returns whether there is one."""
        if not self._ends and not self._stays:
            return False
        self._now_ms = min([*(end for end, _, _ in self._ends[:1]), *self._stays[-1:]])
        while self._stays and self._stays[-1] <= self._now_ms:
            self._stays.pop()
        while self._ends and self._ends[0][0] == self._now_ms:
            _, executor_id, guesses = heapq.heappop(self._ends)
            self._guesses = max(self._guesses, guesses)
            self._known.pop(executor_id, None)
            self._cluster.end(executor_id, self._now_ms)
        return True

    def _drop_hopeless(self, decisions: Decisions) -> None:
        """What fits never does not wait for long."""
        for sequence, reason in decisions.waiting.items():
            if reason is not Reason.NEVER_FITS:
                continue
            for alike in self._shapes.pop(_shape(self._tasks[sequence]), ()):
                if alike.sequence in self._left:
                    self._left.remove(alike.sequence)
                    self._found[alike.sequence] = Forecast(None, why=NoForecast.NEVER_FITS, reason=reason)


def _shape(task: WaitingTask) -> Shape:
    return (task.executor_class, task.request, task.tenant)
