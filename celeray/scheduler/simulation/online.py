"""Tasks arrive, wait, run and leave, on a virtual clock: what the placement code makes of a load.

At each instant with an event the tasks that ended leave, those that arrive wait, and one cycle of `place` decides, as
in the bridge. What runs is a busy executor whose end is known, as in EASY backfill with exact run times. A run gets
room of its own and gives all of it back at its end: executors that stay warm are not simulated.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from celeray.scheduler.model import Decisions, Placement, Reason, Reserved, WarmExecutor
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.simulation.backlog import DEPTH_LEAST, Backlog
from celeray.scheduler.simulation.cluster import SimulatedCluster
from celeray.scheduler.simulation.nodes import NodeSpec
from celeray.scheduler.simulation.workload import Arrival


@dataclass(frozen=True, slots=True)
class Start:
    """When and where a task began; its number is that of its arrival."""

    sequence: int
    at_ms: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class OnlineRun:
    """Everything that happened. `online_figures` reads it."""

    arrivals: Sequence[Arrival]
    starts: Sequence[Start]
    """In the order in which they began."""
    never_fit: int
    """Tasks that no node could hold, even idle."""
    unplaced: int
    """Tasks that still waited when nothing was left to happen."""
    decided: int
    """Tasks that cycles decided on, each as often as a cycle saw it."""
    cycles: int
    seconds: float
    """CPU time of all cycles; the one figure that another run with the same seed does not repeat."""


def run_online(
    arrivals: Sequence[Arrival], nodes: Sequence[NodeSpec], policy: Policy, *, see_all: bool = False
) -> OnlineRun:
    """Run until the last task has left.

    Args:
        arrivals: in the order of their times.
        see_all: give each cycle all waiting tasks, and not only those that it needs. Slow; decides the same.

    Raises:
        SimulationError: a placement does not fit.
    """
    return _Simulation(arrivals, nodes, policy, see_all=see_all).run()


class _Simulation:
    def __init__(
        self, arrivals: Sequence[Arrival], nodes: Sequence[NodeSpec], policy: Policy, *, see_all: bool
    ) -> None:
        self._arrivals = arrivals
        self._policy = policy
        self._see_all = see_all
        self._cluster = SimulatedCluster(nodes)
        self._backlog = Backlog()
        self._next = 0
        """Number of the arrival that comes next."""
        self._ends: list[tuple[int, int]] = []
        """A heap of when each running task ends, with its number."""
        self._running: dict[int, Placement] = {}
        self._starts: list[Start] = []
        self._reserved: Reserved | None = None
        self._never_fit = self._decided = self._cycles = 0
        self._seconds = 0.0

    def run(self) -> OnlineRun:
        while (now := self._next_event()) is not None:
            self._leave(now)
            self._arrive(now)
            while len(self._backlog) and self._cycle(now):
                pass
        return OnlineRun(
            arrivals=self._arrivals,
            starts=self._starts,
            never_fit=self._never_fit,
            unplaced=len(self._backlog),
            decided=self._decided,
            cycles=self._cycles,
            seconds=self._seconds,
        )

    def _next_event(self) -> int | None:
        times = [self._ends[0][0]] if self._ends else []
        if self._next < len(self._arrivals):
            times.append(self._arrivals[self._next].at_ms)
        return min(times, default=None)

    def _leave(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, sequence = heapq.heappop(self._ends)
            self._cluster.give_back(self._running.pop(sequence), self._arrivals[sequence].task.request)

    def _arrive(self, now: int) -> None:
        while self._next < len(self._arrivals) and self._arrivals[self._next].at_ms <= now:
            arrival = self._arrivals[self._next]
            waiting = arrival.task.waiting(self._next, arrived_ms=arrival.at_ms, expected_ms=arrival.run_ms)
            self._backlog.add(waiting)
            self._next += 1

    def _cycle(self, now: int) -> bool:
        """One placement cycle. True: tasks that can never fit were dropped, so what they hid is to be looked at."""
        decisions = self._decide(now)
        for placement in decisions.placements:
            self._begin(placement, now)
        self._backlog.overtaken(decisions.overtaken)
        never = [number for number, why in decisions.waiting.items() if why is Reason.NEVER_FITS]
        for sequence in never:
            self._backlog.remove(sequence)
        self._never_fit += len(never)
        return bool(never)

    def _decide(self, now: int) -> Decisions:
        snapshot = replace(self._cluster.snapshot(self._executors(now)), reserved=self._reserved)
        depth = None if self._see_all else DEPTH_LEAST
        while True:
            heads = self._backlog.heads(depth)
            begun = time.process_time()
            decisions = place(heads, snapshot, self._policy)
            self._seconds += time.process_time() - begun
            self._cycles += 1
            self._decided += len(heads)
            if depth is None or not self._backlog.exhausted(decisions.placements, depth):
                self._reserved = decisions.reserved
                return decisions
            depth *= 2

    def _begin(self, placement: Placement, now: int) -> None:
        sequence = placement.sequence
        task = self._backlog.remove(sequence)
        self._cluster.take(placement, task.request)
        self._running[sequence] = placement
        heapq.heappush(self._ends, (now + self._arrivals[sequence].run_ms, sequence))
        self._starts.append(Start(sequence, now, placement))

    def _executors(self, now: int) -> list[WarmExecutor]:
        return [self._executor(sequence, ends_ms - now) for ends_ms, sequence in self._ends]

    def _executor(self, sequence: int, ends_in_ms: int) -> WarmExecutor:
        placement, request = self._running[sequence], self._arrivals[sequence].task.request
        return WarmExecutor(
            executor_id=str(sequence),
            executor_class="trace",
            node_id=placement.node_id,
            device_uuids=placement.device_uuids,
            memory_mib=placement.memory_mib,
            exclusive=request.exclusive,
            idle=False,
            last_used=0.0,
            host_memory_mib=request.host_memory_mib,
            cpus_milli=request.cpus_milli,
            ends_in_ms=ends_in_ms,
        )
