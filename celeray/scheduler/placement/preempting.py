"""Which runs are ended, and put back, so that an urgent task gets their room.

Asked last: when nothing is free, and the end of idle executors alone makes no room. A run counts where its task says
that it is preemptible, was sent at a lower priority than `URGENT`, and was not put back the time before; the bridge
knows these (`WarmExecutor.preemptible`). What is lost is the work done so far, so that is what is weighed: time run
times memory held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from celeray.scheduler.model import Preemption, Reason, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement.board import BoardNode
from celeray.scheduler.placement.clearing import find_clearing
from celeray.scheduler.placement.policy import Policy

URGENT = 9
"""Tasks of this priority or more, as they were sent, may have others put back, which are of less."""
CURED_BY_PREEMPTING = frozenset(
    {Reason.VRAM, Reason.EXCLUSIVE, Reason.HOST_MEMORY, Reason.CPUS, Reason.RECLAIMING}
)
"""What the end of runs can cure on a node."""


@dataclass(frozen=True, slots=True)
class Room:
    """Room for a request once these executors have ended. Without any of them there would be none."""

    node: BoardNode
    device_uuids: tuple[str, ...]
    busy: tuple[WarmExecutor, ...]
    idle: tuple[WarmExecutor, ...]

    @property
    def price(self) -> tuple[int, int, int, int]:
        """What is lost: work (MiB times milliseconds), runs, milliseconds to start idle executors again, these."""
        lost, start_ms = sum(map(work_of, self.busy)), sum(executor.start_ms for executor in self.idle)
        return lost, len(self.busy), start_ms, len(self.idle)

    def preemption_for(self, task: WaitingTask) -> Preemption:
        """As a decision."""
        ended = tuple(executor.executor_id for executor in self.busy)
        return Preemption(task.sequence, self.node.state.node_id, self.device_uuids, ended)


def work_of(executor: WarmExecutor) -> int:
    """Milliseconds that its task has run times the MiB that it holds: VRAM, or without a device host memory."""
    held_mib = executor.memory_mib * len(executor.device_uuids) or executor.host_memory_mib
    return executor.ran_ms * max(1, held_mib)


class Preempting:
    """Of one cycle."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self._executors = snapshot.executors
        self._policy = policy
        self._made = {preemption.sequence: preemption for preemption in snapshot.preemptions}
        self._busy: dict[str, list[WarmExecutor]] | None = None

    def made_for(self, task: WaitingTask) -> Preemption | None:
        """An earlier cycle's preemption for the task, whose room is not back yet."""
        return self._made.get(task.sequence)

    def may_preempt(self, task: WaitingTask) -> bool:
        """Whether runs may be ended for the task at all."""
        return self._policy.order.preempt and task.priority >= URGENT

    def cheapest(
        self,
        task: WaitingTask,
        nodes: Sequence[BoardNode],
        idle_on: Callable[[BoardNode], list[WarmExecutor]],
    ) -> Room | None:
        """The room that loses least, ties to the first node; None: no end of preemptible runs makes any.

        Args:
            nodes: where to look.
            idle_on: idle executors of a node that may end for the task, least recently used first.
        """
        busy = self._preemptible()
        # Whatever is chosen on a node, it loses at least the cheapest run there.
        among = sorted(
            (node for node in nodes if node.state.node_id in busy),
            key=lambda node: (work_of(busy[node.state.node_id][0]), node.row),
        )
        best: Room | None = None
        for node in among:
            of_node = busy[node.state.node_id]
            if best is not None and work_of(of_node[0]) > best.price[0]:
                break
            found = find_room(task.request, node, idle_on(node), of_node, self._policy)
            if found is not None and (best is None or (found.price, node.row) < (best.price, best.node.row)):
                best = found
        return best

    def _preemptible(self) -> dict[str, list[WarmExecutor]]:
        """By node, those first that lose least."""
        if self._busy is None:
            self._busy = {}
            for executor in self._executors:
                busy = not (executor.idle or executor.starting)
                if busy and executor.preemptible and executor.priority < URGENT:
                    self._busy.setdefault(executor.node_id, []).append(executor)
            for of_node in self._busy.values():
                of_node.sort(key=lambda executor: (work_of(executor), executor.executor_id))
        return self._busy


def find_room(
    request: ResourceRequest,
    node: BoardNode,
    idle: list[WarmExecutor],
    busy: list[WarmExecutor],
    policy: Policy,
) -> Room | None:
    """The cheaper of two choices: all that may end without the dearest ones that need not; or one run alone.

    The first is best where several runs are needed, as on devices of their own, and the second where one large run
    stands for several small ones. It is no search of all sets, and of what it returns each one is needed.

    Args:
        idle: executors of the node that may end, least recently used first.
        busy: executors whose run may be put back, those first that lose least.
    """
    several = _without_needless(request, node, idle, busy, policy)
    if several is None or len(several.busy) < 2:
        return several
    lost = several.price[0]
    for executor in busy:
        if work_of(executor) > lost:
            break
        one = _without_needless(request, node, idle, [executor], policy)
        if one is not None:
            return min(several, one, key=lambda room: room.price)
    return several


def _without_needless(
    request: ResourceRequest,
    node: BoardNode,
    idle: list[WarmExecutor],
    busy: list[WarmExecutor],
    policy: Policy,
) -> Room | None:
    """All may end; the dearest first, each that is not needed stays. None: not even the end of all makes room."""
    found = find_clearing(request, node, [*idle, *busy], policy)
    if found is None:
        return None
    ended = [*idle, *busy]
    for executor in [*reversed(busy), *sorted(idle, key=lambda e: -e.start_ms)]:
        rest = [other for other in ended if other is not executor]
        if clearing := find_clearing(request, node, rest, policy):
            ended, found = rest, clearing
    uuids = tuple(device.state.uuid for device in found.devices)
    return Room(node, uuids, tuple(e for e in ended if not e.idle), tuple(e for e in ended if e.idle))
