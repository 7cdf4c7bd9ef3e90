"""Room that is kept for the first task without a place (EASY backfill).

Source: Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995. The task gets the node where enough is expected to end
first. Tasks behind it may use that room only if they are expected to end before, or in what the task leaves over; so
they never delay it, as far as the expected run times hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celeray.scheduler.model import Reason, Reserved, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement.board import Board, BoardDevice, BoardNode
from celeray.scheduler.placement.closeness import closest_of
from celeray.scheduler.placement.filters import could_fit_idle, node_matches, type_rank
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import Bools

CURED_BY_WAITING = frozenset(
    {Reason.EXCLUSIVE, Reason.VRAM, Reason.HOST_MEMORY, Reason.CPUS, Reason.STARTING, Reason.RESERVED}
)
"""What a task waits for that comes back when others end."""
KEPT_FACTOR = 2
"""Room that was kept so far is given up when it comes later than so many times the best one's time,"""
KEPT_MS = 1_000
"""and so many milliseconds."""


@dataclass(frozen=True, slots=True)
class _End:
    """An executor that will give its room back."""

    at_ms: int
    executor: WarmExecutor


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a task would begin, and when."""

    node: BoardNode
    devices: tuple[BoardDevice, ...]
    at_ms: int
    known: bool
    """Whether all that it waits for is expected to end at a known time."""


def plan(
    request: ResourceRequest,
    board: Board,
    snapshot: Snapshot,
    policy: Policy,
    sequence: int | None = None,
    barred: Bools | None = None,
) -> Plan | None:
    """The earliest place for a request, ties to the first node; None: no end of what runs now makes room.

    Where the cycle before kept room for the task, that stays unless another place comes much sooner: what is kept
    drains, and to begin anew whenever a run takes a little longer than expected would let a stream of others go first
    for ever.

    Args:
        sequence: of the task that asks. None: nobody does, so nothing is kept for it.
        barred: by node, where it may not go, so that nothing is kept there from those that it would overtake.
    """
    ends = _ends_by_node(board, snapshot, policy)
    best: Plan | None = None
    for node in board.nodes:
        if barred is not None and barred[node.row]:
            continue
        if node_matches(request, node.state) or not could_fit_idle(request, node.state, policy):
            continue
        found = _plan_on(request, node, node.devices, ends.get(node.state.node_id, ()), policy)
        if found is not None and (best is None or found.at_ms < best.at_ms):
            best = found
    kept, before = None, snapshot.reserved
    if before is not None and before.sequence == sequence:
        kept = _kept(request, before, board, ends.get(before.node_id, ()), policy)
    if kept is not None and barred is not None and barred[kept.node.row]:
        kept = None
    if best is None or kept is None or kept.at_ms > KEPT_FACTOR * best.at_ms + KEPT_MS:
        return best
    return kept


def _kept(
    request: ResourceRequest, before: Reserved, board: Board, ends: Sequence[_End], policy: Policy
) -> Plan | None:
    node = board.node(before.node_id)
    if node is None or node_matches(request, node.state):
        return None
    devices = [device for device in node.devices if device.state.uuid in before.device_uuids]
    return _plan_on(request, node, devices, ends, policy)


def reserve(task: WaitingTask, found: Plan, board: Board, snapshot: Snapshot, policy: Policy) -> Reserved:
    """Mark on the board what is left to runs that last longer than until the task begins."""
    request, node = task.request, found.node
    ends = _ends_by_node(board, snapshot, policy).get(node.state.node_id, ())
    back = [end.executor for end in ends if end.at_ms <= found.at_ms]
    for device in found.devices:
        if request.exclusive:
            device.spare_mib = 0
        else:
            room = device.room_mib + device.state.reclaiming_mib
            room += sum(e.memory_mib for e in back if device.state.uuid in e.device_uuids)
            device.spare_mib = room - (request.memory_mib or 0)
    node.spare_cpus_milli = node.cpus_milli + sum(e.cpus_milli for e in back) - request.cpus_milli
    node.spare_memory_mib = node.memory_mib + sum(e.host_memory_mib for e in back) - request.host_memory_mib
    uuids = tuple(device.state.uuid for device in found.devices)
    return Reserved(task.sequence, node.state.node_id, uuids, found.at_ms if found.known else None)


def _ends_by_node(board: Board, snapshot: Snapshot, policy: Policy) -> dict[str, list[_End]]:
    """When each executor gives its room back, first ones first. An idle one does so whenever it is told to."""
    ends: dict[str, list[_End]] = {}
    for executor in snapshot.executors:
        at = 0 if board.is_idle(executor) else _end_of(executor, board, policy)
        ends.setdefault(executor.node_id, []).append(_End(at, executor))
    for of_node in ends.values():
        of_node.sort(key=lambda end: (end.at_ms, end.executor.executor_id))
    return ends


def _end_of(executor: WarmExecutor, board: Board, policy: Policy) -> int:
    """Of one that got its task in this very cycle, when that is expected to be over."""
    ends_in_ms = board.taken.get(executor.executor_id, executor.ends_in_ms)
    return policy.order.unknown_run_ms if ends_in_ms is None else ends_in_ms


def _plan_on(
    request: ResourceRequest,
    node: BoardNode,
    among: Sequence[BoardDevice],
    ends: Sequence[_End],
    policy: Policy,
) -> Plan | None:
    at = _enough_at(
        request.cpus_milli, node.cpus_milli, [(end.at_ms, end.executor.cpus_milli) for end in ends]
    )
    memory_at = _enough_at(
        request.host_memory_mib, node.memory_mib, [(end.at_ms, end.executor.host_memory_mib) for end in ends]
    )
    if at is None or memory_at is None:
        return None
    options = []
    for device in among if request.gpus else ():
        free_at = _device_free_at(request, device, ends, policy)
        if free_at is not None:
            options.append((free_at, type_rank(request, device.state) or 0, device.room_mib, device.column))
    if len(options) < request.gpus:
        return None
    chosen = sorted(options)[: request.gpus]
    at = max([at, memory_at, *(option[0] for option in chosen)])
    if request.gpus > 1 and node.state.closeness:
        chosen = _closest(request, node, [option for option in options if option[0] <= at])
    devices = tuple(node.devices[option[-1]] for option in chosen)
    known = all(end.at_ms < policy.order.unknown_run_ms for end in ends if end.at_ms <= at)
    return Plan(node, devices, at, known)


def _closest(
    request: ResourceRequest, node: BoardNode, in_time: Sequence[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Of devices that are all free by the time that the task begins, those of the wanted types that are closest."""
    columns = closest_of([(option[-1], option[1:2], option) for option in in_time], node.state, request.gpus)
    by_column = {option[-1]: option for option in in_time}
    return [by_column[column] for column in columns]


def _enough_at(need: int, free: int, ends: Sequence[tuple[int, int]]) -> int | None:
    """When `need` is free, given what each end gives back; None: never."""
    if free >= need:
        return 0
    for at_ms, given in ends:
        free += given
        if free >= need:
            return at_ms
    return None


def _device_free_at(
    request: ResourceRequest, device: BoardDevice, ends: Sequence[_End], policy: Policy
) -> int | None:
    state = device.state
    if type_rank(request, state) is None or not state.usable or device.held or device.spare_mib is not None:
        return None
    if request.exclusive and state.foreign_mib > policy.exclusive_foreign_mib:
        return None
    here = [end for end in ends if state.uuid in end.executor.device_uuids]
    alone = request.exclusive or state.exclusive_process or device.exclusive
    # Executors that began in this cycle have no end yet; they hold the device for as long as is not known.
    unknown = device.holders - len(here) - state.reclaiming_holders
    room = device.room_mib + state.reclaiming_mib
    need = max(1, request.memory_mib or 0)
    if alone:
        at = max((end.at_ms for end in here), default=0)
        at = max(at, policy.order.unknown_run_ms) if unknown > 0 else at
        room += sum(end.executor.memory_mib for end in here)
        return at if room >= need or unknown > 0 else None
    found = _enough_at(need, room, [(end.at_ms, end.executor.memory_mib) for end in here])
    return policy.order.unknown_run_ms if found is None and unknown > 0 else found
