"""`place`: one placement cycle.

Order: priority, then age. For each task: a warm idle executor of its class; else a new executor on the tightest
devices that fit; else room made by ending idle executors, whose devices are then kept for it; else the reason.

A starting executor counts for one waiting task of its class, so a cycle never starts two for one task. Tasks of one
class and request are alike: once one has no place, none of those behind it has, within this cycle.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeray.scheduler.model import (
    Decisions,
    Isolation,
    Placement,
    Reason,
    ResourceRequest,
    Snapshot,
    WaitingTask,
)
from celeray.scheduler.placement.board import Board, BoardNode
from celeray.scheduler.placement.filters import (
    closest,
    could_ever_fit,
    executor_fits,
    node_matches,
    warm_device_fits,
)
from celeray.scheduler.placement.gang import Clearing, Gang, find_clearing, find_gang
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.scores import gang_score

CLEARABLE = frozenset({Reason.VRAM, Reason.EXCLUSIVE, Reason.HOST_MEMORY, Reason.RECLAIMING})
"""What the end of idle executors can cure."""


def place(waiting: Sequence[WaitingTask], snapshot: Snapshot, policy: Policy) -> Decisions:
    """Decide what goes where.

    Args:
        waiting: the tasks, in any order.
        snapshot: nodes with their devices, and the live executors.
        policy: what the operator chose.

    Returns:
        Placements to act on, idle executors to evict, and for every other task its reason. Deterministic: the
        same input gives the same output.
    """
    return _Cycle(snapshot, policy).run(waiting)


class _Cycle:
    """One cycle's state: the board, what was decided, and which shapes of task are known to have no place."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._board = Board(snapshot)
        self._placements: list[Placement] = []
        self._evictions: list[str] = []
        self._waiting: dict[int, Reason] = {}
        self._refused: dict[tuple[str, ResourceRequest], Reason] = {}

    def run(self, waiting: Sequence[WaitingTask]) -> Decisions:
        for task in sorted(waiting, key=lambda t: (-t.priority, t.sequence)):
            decided = self._decide(task)
            if isinstance(decided, Placement):
                self._placements.append(decided)
                if decided.executor_id is not None or task.request.isolation is Isolation.FRESH:
                    continue
                # The new executor takes the first waiting task of its class when it is up.
                decided = Reason.STARTING
            self._waiting[task.sequence] = decided
        return Decisions(tuple(self._placements), tuple(self._evictions), self._waiting)

    def _decide(self, task: WaitingTask) -> Placement | Reason:
        if not self._snapshot.nodes:
            return Reason.CLUSTER_DOWN
        shape = (task.executor_class, task.request)
        if refused := self._refused.get(shape):
            return refused
        if task.request.isolation is Isolation.WARM and (ready := self._ready(task)):
            return ready
        decided = self._start(task)
        if isinstance(decided, Reason):
            self._refused[shape] = decided
        return decided

    def _ready(self, task: WaitingTask) -> Placement | Reason | None:
        """A warm idle executor for the task, or one that starts already."""
        if warm := self._warm(task):
            return warm
        starting = self._board.starting_by_class.get(task.executor_class, 0)
        if not starting:
            return None
        self._board.starting_by_class[task.executor_class] = starting - 1
        return Reason.STARTING

    def _warm(self, task: WaitingTask) -> Placement | None:
        # Most recently used first: the others grow old and are evicted first.
        for executor in reversed(self._board.idle_of_class(task.executor_class)):
            node = self._board.node(executor.node_id)
            if node is None or node.cpus_milli < task.request.cpus_milli:
                continue
            if node_matches(task.request, node.state) or not executor_fits(task.request, executor):
                continue
            devices = map(self._board.devices.get, executor.device_uuids)
            if not all(warm_device_fits(task.request, device) for device in devices):
                continue
            self._board.take_executor(executor, task.request)
            return Placement(
                task.task_id,
                executor.node_id,
                executor.device_uuids,
                executor.memory_mib,
                executor.executor_id,
                task.sequence,
            )
        return None

    def _start(self, task: WaitingTask) -> Placement | Reason:
        gangs: list[Gang] = []
        refusals: list[tuple[BoardNode, Reason]] = []
        for node in self._board.nodes:
            found = find_gang(task.request, node, self._policy)
            if isinstance(found, Gang):
                gangs.append(found)
            else:
                refusals.append((node, found))
        if not gangs:
            return self._clear(task.request, refusals) or self._refuse(task.request, refusals)
        best = min(gangs, key=lambda gang: gang_score(task.request, gang.node, gang.devices))
        memory = self._memory(task.request, best)
        self._board.take_room(best.node, best.devices, task.request, memory)
        uuids = tuple(device.state.uuid for device in best.devices)
        return Placement(task.task_id, best.node.state.node_id, uuids, memory, sequence=task.sequence)

    @staticmethod
    def _memory(request: ResourceRequest, gang: Gang) -> int:
        if request.exclusive:
            return min((device.room_mib for device in gang.devices), default=0)
        return request.memory_mib or 0

    def _clear(self, request: ResourceRequest, refusals: list[tuple[BoardNode, Reason]]) -> Reason | None:
        clearings: list[Clearing] = []
        for node, reason in refusals:
            if reason in CLEARABLE and (found := find_clearing(request, node, self._board, self._policy)):
                clearings.append(found)
        if not clearings:
            return None
        best = min(
            clearings,
            key=lambda c: (len(c.evictions), max((e.last_used for e in c.evictions), default=0.0)),
        )
        for executor in best.evictions:
            self._board.evict(executor)
            self._evictions.append(executor.executor_id)
        self._board.hold(best.devices)
        return Reason.RECLAIMING

    def _refuse(self, request: ResourceRequest, refusals: list[tuple[BoardNode, Reason]]) -> Reason:
        if not could_ever_fit(request, (*self._snapshot.nodes, *self._snapshot.absent), self._policy):
            return Reason.NEVER_FITS
        return closest([reason for _, reason in refusals])
