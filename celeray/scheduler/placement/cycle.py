"""`place`: one placement cycle.

In the order of `order.order_key`, in which tenants take turns (`fair_share`), for each task: a warm idle executor of
its class; else a busy one that is free before another would be up; else a new executor where the policy's score is
best; else room made by ending idle executors, whose devices are then kept for it; else, for an urgent one and where the
operator wants it, room made by ending runs that are preemptible; else the reason. The first task that has no place, and
would have one when others end, gets a reservation; from then on the shortest come first.

A starting executor counts for one waiting task of its class, so a cycle never starts two for one task. Tasks of one
class and request are alike: once one has no place, none of those behind it has, within this cycle.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeray.scheduler.model import (
    Decisions,
    Isolation,
    Placement,
    Preemption,
    Reason,
    Reserved,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement.board import Board, BoardDevice, BoardNode
from celeray.scheduler.placement.candidates import Candidates
from celeray.scheduler.placement.clearing import Clearing, find_clearing
from celeray.scheduler.placement.fair_share import FairShare
from celeray.scheduler.placement.filters import could_ever_fit
from celeray.scheduler.placement.overtaking import Overtaking
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.preempting import CURED_BY_PREEMPTING, Preempting
from celeray.scheduler.placement.refusing import closest, node_reasons
from celeray.scheduler.placement.reservation import CURED_BY_WAITING, plan, reserve
from celeray.scheduler.placement.rooms import Rooms
from celeray.scheduler.placement.warm import find_warm, soon_free

CLEARABLE = frozenset({Reason.VRAM, Reason.EXCLUSIVE, Reason.HOST_MEMORY, Reason.RECLAIMING})
"""What the end of idle executors can cure."""


def place(waiting: Sequence[WaitingTask], snapshot: Snapshot, policy: Policy) -> Decisions:
    """Decide what goes where.

    Args:
        waiting: the tasks, in any order.
        snapshot: nodes with their devices, and the live executors.
        policy: what the operator chose.

    Returns:
        Placements to act on, idle executors to evict, busy ones to preempt, what is reserved, and for every other
        task its reason.
        Deterministic: the same input gives the same output.
    """
    return _Cycle(waiting, snapshot, policy).run()


class _Cycle:
    """One cycle's state: the board, what was decided, and which shapes of task are known to have no place."""

    def __init__(self, waiting: Sequence[WaitingTask], snapshot: Snapshot, policy: Policy) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._turns = FairShare(waiting, snapshot, policy.order)
        self._board = Board(snapshot, waiting)
        self._overtaking = Overtaking(waiting, self._board, policy)
        self._search: tuple[Rooms, Candidates] | None = None
        self._placements: list[Placement] = []
        self._evictions: list[str] = []
        self._waiting: dict[int, Reason] = {}
        self._refused: dict[tuple[str, ResourceRequest, bool, int, int], Reason] = {}
        self._preempting = Preempting(snapshot, policy)
        self._preempted: list[Preemption] = []
        self._reserved: Reserved | None = None
        self._reserved_at_ms = 0
        self._reserved_priority = 0

    def run(self) -> Decisions:
        for task in self._turns:
            decided = self._decide(task)
            if isinstance(decided, Placement):
                self._turns.charge(task, decided.memory_mib * len(decided.device_uuids))
                self._placements.append(decided)
                if decided.executor_id is not None or task.request.isolation is Isolation.FRESH:
                    continue
                # The new executor takes the first waiting task of its class when it is up.
                decided = Reason.STARTING
            self._waiting[task.sequence] = decided
        return Decisions(
            tuple(self._placements),
            tuple(self._evictions),
            self._waiting,
            self._reserved,
            self._overtaking.counts(),
            tuple(self._preempted),
        )

    def _decide(self, task: WaitingTask) -> Placement | Reason:
        if not self._snapshot.nodes:
            return Reason.CLUSTER_DOWN
        lasting = self._is_lasting(task)
        # Where a task may go, and what may end for it, goes by its priority too.
        shape = (task.executor_class, task.request, lasting, self._overtaking.bars, task.priority)
        # Room that is made for one task says nothing of its like.
        made = self._preempting.made_for(task)
        decided: Placement | Reason | None = None if made else self._refused.get(shape)
        if decided is None and task.request.isolation is Isolation.WARM:
            decided = self._ready(task, lasting=lasting)
        if decided is None:
            decided = self._start(task, lasting=lasting)
            # Who waits for a busy executor has it for himself, so his like may have no place.
            if isinstance(decided, Reason) and decided is not Reason.BUSY and not made:
                decided = self._wait(task, decided)
                self._refused[shape] = decided
        return decided

    def _is_lasting(self, task: WaitingTask) -> bool:
        """Whether the run would not be over before the reserved room is needed."""
        if self._reserved is None:
            return False
        return task.expected_ms is None or task.expected_ms > self._reserved_at_ms

    def _ready(self, task: WaitingTask, *, lasting: bool) -> Placement | Reason | None:
        """A warm idle executor for the task, or one that it waits for since it starts already, or is free soon."""
        barred = self._overtaking.barred(task.priority)
        if found := find_warm(task, self._board, lasting=lasting, barred=barred):
            executor = self._board.idle_of_class(task.executor_class)[found.place]
            node = self._board.take_executor(found.place, executor, task, lasting=lasting)
            self._changed(task, node, [self._board.devices[uuid] for uuid in executor.device_uuids])
            return found.placement
        starting = self._board.starting_by_class.get(task.executor_class, 0)
        if not starting:
            # Whoever had room made for him takes that.
            made = task.first or self._preempting.made_for(task)
            return Reason.BUSY if not made and self._await(task, 0, lasting=lasting) else None
        self._board.starting_by_class[task.executor_class] = starting - 1
        if self._turns.shared:
            self._turns.charge(task, self._starting_mib(task.executor_class))
        return Reason.STARTING

    def _starting_mib(self, executor_class: str) -> int:
        """VRAM of an executor of the class that starts, on all its devices: a task that waits for it has its turn."""
        found = (e for e in self._snapshot.executors if e.starting and e.executor_class == executor_class)
        return next((e.memory_mib * len(e.device_uuids) for e in found), 0)

    def _await(self, task: WaitingTask, within_ms: int, *, lasting: bool) -> bool:
        """Whether it waits for a busy executor, for which nobody else waits then."""
        barred = self._overtaking.barred(task.priority)
        found = soon_free(task, self._board, within_ms, lasting=lasting, barred=barred)
        if found is None:
            return False
        self._board.soon_free(task.executor_class).remove(found)
        self._turns.charge(task, found.memory_mib * len(found.device_uuids))
        return True

    def _start(self, task: WaitingTask, *, lasting: bool) -> Placement | Reason:
        _, candidates = self._searched()
        barred = self._overtaking.barred(task.priority)
        best = candidates.best(task.request, lasting=lasting, barred=barred)
        if best is None:
            return self._refusal(task, lasting=lasting)
        node, devices = best
        memory = task.request.memory_mib or 0
        if task.request.exclusive:
            memory = min((device.room_mib for device in devices), default=0)
        self._board.take_room(node, devices, task.request, memory, lasting=lasting)
        self._changed(task, node, devices)
        uuids = tuple(device.state.uuid for device in devices)
        return Placement(task.task_id, node.state.node_id, uuids, memory, sequence=task.sequence)

    def _searched(self) -> tuple[Rooms, Candidates]:
        # Made when the first executor has to start: tasks for warm ones don't need it.
        if self._search is None:
            rooms = Rooms(self._board, self._policy)
            self._search = rooms, Candidates(self._board, rooms, self._policy)
        return self._search

    def _changed(self, task: WaitingTask, node: BoardNode, devices: Sequence[BoardDevice]) -> None:
        if self._search is not None:
            self._search[0].changed(node, devices)
        self._overtaking.placed(task, node.row)

    def _refusal(self, task: WaitingTask, *, lasting: bool) -> Reason:
        """Room that is made by ending executors, or why there is none."""
        request = task.request
        if (made := self._preempting.made_for(task)) and self._keep(made, task):
            return Reason.RECLAIMING
        rooms, _ = self._searched()
        kept = self._kept(lasting=lasting)
        barred = self._overtaking.barred(task.priority)
        reasons = [
            Reason.RESERVED if reason is None or (barred is not None and barred[row]) else reason
            for row, reason in enumerate(node_reasons(request, rooms, lasting=lasting))
        ]
        clearable = [
            node for node in self._board.clearable if node.row != kept and reasons[node.row] in CLEARABLE
        ]
        if clearing := self._clearing(task, clearable, staying=False):
            if request.isolation is Isolation.WARM and self._await(task, clearing.price[0], lasting=lasting):
                return Reason.BUSY
            self._clear(clearing)
            return Reason.RECLAIMING
        if self._clearing(task, clearable, staying=True):
            return Reason.WARM
        if self._preempt(task, reasons, kept):
            return Reason.RECLAIMING
        if not could_ever_fit(request, (*self._snapshot.nodes, *self._snapshot.absent), self._policy):
            return Reason.NEVER_FITS
        return closest(reasons)

    def _kept(self, *, lasting: bool) -> int | None:
        """Row of the node where nothing is ended for a lasting task, since its room is reserved."""
        reserved = self._board.node(self._reserved.node_id) if lasting and self._reserved else None
        return None if reserved is None else reserved.row

    def _clearing(self, task: WaitingTask, nodes: Sequence[BoardNode], *, staying: bool) -> Clearing | None:
        """The cheapest room that idle executors would make.

        Args:
            staying: those that are not to end for this task count too.
        """
        found = []
        for node in nodes:
            idle = self._idle(task, node, staying=staying)
            if clearing := find_clearing(task.request, node, idle, self._policy):
                found.append(clearing)
        return min(found, key=lambda clearing: clearing.price, default=None)

    def _idle(self, task: WaitingTask, node: BoardNode, *, staying: bool) -> list[WarmExecutor]:
        idle = self._board.idle_on(node.state.node_id)
        return idle if staying else [e for e in idle if not self._board.stays(e, task.priority)]

    def _clear(self, clearing: Clearing) -> None:
        for executor in clearing.evictions:
            self._board.evict(executor)
            self._evictions.append(executor.executor_id)
        self._board.hold(clearing.devices)
        self._searched()[0].changed(clearing.node, clearing.devices)

    def _preempt(self, task: WaitingTask, reasons: Sequence[Reason], kept: int | None) -> bool:
        """Make room for an urgent task by ending runs, if that is wanted and possible.

        Args:
            kept: row of the node whose room is kept for another one. Idle executors stay there; runs do so too where
                that one is no less urgent. One that is, and has grown old, gets what comes after.
        """
        if self._preempted or not self._preempting.may_preempt(task):
            return False
        spared = kept if self._reserved_priority >= task.priority else None
        among = [
            node
            for node in self._board.nodes
            if node.row != spared and reasons[node.row] in CURED_BY_PREEMPTING
        ]
        found = self._preempting.cheapest(
            task, among, lambda node: [] if node.row == kept else self._idle(task, node, staying=False)
        )
        if found is None:
            return False
        for executor in found.idle:
            self._board.evict(executor)
            self._evictions.append(executor.executor_id)
        preemption = found.preemption_for(task)
        self._preempted.append(preemption)
        return self._keep(preemption, task)

    def _keep(self, preemption: Preemption, task: WaitingTask) -> bool:
        """Keep what was made for the task from all others. False: its node is gone."""
        node = self._board.node(preemption.node_id)
        if node is None:
            return False
        devices = [device for device in node.devices if device.state.uuid in preemption.device_uuids]
        self._board.hold(devices)
        node.cpus_milli = max(0, node.cpus_milli - task.request.cpus_milli)
        node.memory_mib = max(0, node.memory_mib - task.request.host_memory_mib)
        self._searched()[0].changed(node, devices)
        return True

    def _wait(self, task: WaitingTask, reason: Reason) -> Reason:
        """Reserve room for the first task that waits for others to end."""
        if self._reserved is not None or not self._policy.order.reserve or reason not in CURED_BY_WAITING:
            return reason
        barred = self._overtaking.barred(task.priority)
        if found := plan(task.request, self._board, self._snapshot, self._policy, task.sequence, barred):
            self._reserved = reserve(task, found, self._board, self._snapshot, self._policy)
            self._reserved_at_ms, self._reserved_priority = found.at_ms, task.priority
            self._turns.shortest_first()
            self._searched()[0].reserved(found.node, found.devices)
        return reason
