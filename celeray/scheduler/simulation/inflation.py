"""The inflation experiment: tasks arrive until 130 % of the cluster is asked for, none leaves, none is tried again.

The protocol of "Beware of Fragmentation" (USENIX ATC 2023). One placement cycle gets all tasks at once: in the order of
their arrival each gets its place or is refused, which is the same as to place them one by one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.model import Placement
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.simulation.cluster import SimulatedCluster
from celeray.scheduler.simulation.fragmentation import Shape, fragment_mib, target_workload
from celeray.scheduler.simulation.nodes import NodeSpec, capacity_mib, device_count
from celeray.scheduler.simulation.tasks import TraceTask

FULL_PCT = 100
LAST_PCT = 130
"""How much is asked for in the end, in percent of the cluster's VRAM."""


@dataclass(frozen=True, slots=True)
class InflationRun:
    """What one run came to. Percents are of the cluster's VRAM; a device is the mean device of the cluster."""

    allocation_pct: tuple[float, ...]
    """Allocated when 1, 2, ... 130 % have arrived."""
    idle_devices: tuple[float, float]
    """Not allocated, at 100 and at 130 % arrived."""
    failed: tuple[int, int]
    """Tasks without a place, at 100 and at 130 % arrived."""
    fragment_pct: float
    """At 100 % arrived."""
    first_refused_pct: float | None
    """How much had arrived when the first task with a device was refused. None: none was."""
    tasks: int
    seconds: float
    """CPU time of the placement cycle; the one figure that another run with the same seed does not repeat."""

    def allocation_at(self, arrived_pct: int) -> float:
        """1 to 130."""
        return self.allocation_pct[arrived_pct - 1]

    @property
    def microseconds_a_decision(self) -> float:
        return 1e6 * self.seconds / self.tasks


def run_inflation(
    tasks: Sequence[TraceTask], nodes: Sequence[NodeSpec], policy: Policy, *, seed: int
) -> InflationRun:
    """One run.

    Args:
        tasks: the trace.
        nodes: in any order; the run shuffles them, and that order breaks ties.
        policy: with `ONE_BY_ONE` as its order.
        seed: of the order of the tasks, of what is drawn after them, and of the order of the nodes.

    Raises:
        SimulationError: a placement does not fit.
    """
    draw = random.Random(seed)  # noqa: S311 - a workload, no secret
    weigh = Weigher(nodes)
    arriving = inflated(tasks, weigh, draw)
    cluster = SimulatedCluster(draw.sample(nodes, len(nodes)))
    waiting = [task.waiting(sequence) for sequence, task in enumerate(arriving)]
    snapshot = cluster.snapshot()
    begun = time.process_time()
    decisions = place(waiting, snapshot, policy)
    seconds = time.process_time() - begun
    meter = _Meter(cluster, weigh, target_workload(tasks))
    placed = {placement.sequence: placement for placement in decisions.placements}
    for sequence, task in enumerate(arriving):
        meter.see(task, placed.get(sequence))
    return meter.result(seconds)


class Weigher:
    """VRAM that a task asks for; a whole device counts as the mean one."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self.capacity_mib = capacity_mib(nodes)
        self.mean_device_mib = self.capacity_mib / device_count(nodes)

    def __call__(self, task: TraceTask) -> float:
        return task.vram_mib(self.mean_device_mib)


def inflated(tasks: Sequence[TraceTask], weigh: Weigher, draw: random.Random) -> list[TraceTask]:
    """The trace in a random order, then tasks of it drawn with replacement, until enough is asked for.

    Raises:
        ConfigurationError: no task of the trace asks for a device.
    """
    if not any(task.request.gpus for task in tasks):
        raise ConfigurationError("the trace has no task with a device: nothing to fill a cluster with")
    shuffled = iter(draw.sample(tasks, len(tasks)))
    most, asked = weigh.capacity_mib * LAST_PCT / 100, 0.0
    arriving: list[TraceTask] = []
    while asked < most:
        task = next(shuffled, None) or draw.choice(tasks)
        arriving.append(task)
        asked += weigh(task)
    return arriving


class _Meter:
    """Follows the tasks in the order of their arrival, and reads the cluster at each percent."""

    def __init__(self, cluster: SimulatedCluster, weigh: Weigher, workload: Sequence[Shape]) -> None:
        self._cluster = cluster
        self._weigh = weigh
        self._workload = workload
        self._arrived_mib = 0.0
        self._tasks = 0
        self._failed = 0
        self._first_refused_pct: float | None = None
        self._allocation: list[float] = []
        self._at_full: tuple[int, int, float] | None = None
        """At 100 %: VRAM in use, failed tasks, fragment."""

    def see(self, task: TraceTask, placement: Placement | None) -> None:
        """The next task arrived, and has its place or is refused."""
        self._tasks += 1
        self._arrived_mib += self._weigh(task)
        if placement is not None:
            self._cluster.take(placement, task.request)
        else:
            self._failed += 1
            if task.request.gpus and self._first_refused_pct is None:
                self._first_refused_pct = self._arrived_pct
        while len(self._allocation) < min(LAST_PCT, int(self._arrived_pct + 1e-9)):
            self._read()

    def result(self, seconds: float) -> InflationRun:
        """What the run came to, once all tasks were seen."""
        assert self._at_full is not None, "tasks arrive until 130 % are reached"
        used, failed, fragment = self._at_full
        cluster = self._cluster
        return InflationRun(
            allocation_pct=tuple(self._allocation),
            idle_devices=(self._idle(used), self._idle(cluster.used_mib)),
            failed=(failed, self._failed),
            fragment_pct=100 * fragment / cluster.capacity_mib,
            first_refused_pct=self._first_refused_pct,
            tasks=self._tasks,
            seconds=seconds,
        )

    @property
    def _arrived_pct(self) -> float:
        return 100 * self._arrived_mib / self._cluster.capacity_mib

    def _read(self) -> None:
        cluster = self._cluster
        self._allocation.append(100 * cluster.used_mib / cluster.capacity_mib)
        if len(self._allocation) == FULL_PCT:
            fragment = fragment_mib(cluster.nodes, self._workload)
            self._at_full = cluster.used_mib, self._failed, fragment

    def _idle(self, used_mib: int) -> float:
        return (self._cluster.capacity_mib - used_mib) / self._weigh.mean_device_mib
