"""Which executors would have to end so that a node has room for a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celeray.scheduler.model import ResourceRequest, WarmExecutor
from celeray.scheduler.placement.board import BoardDevice, BoardNode
from celeray.scheduler.placement.closeness import closest_of
from celeray.scheduler.placement.filters import node_matches, type_rank
from celeray.scheduler.placement.policy import Policy


@dataclass(frozen=True, slots=True)
class Clearing:
    """A gang that fits once memory came back: executors to end, none where all of it is coming already."""

    node: BoardNode
    devices: tuple[BoardDevice, ...]
    evictions: tuple[WarmExecutor, ...]

    @property
    def price(self) -> tuple[int, int, float]:
        """What is lost: milliseconds to start and load the like again, then how many, then how recent they are."""
        return _price(self.evictions)


def _price(evictions: Sequence[WarmExecutor]) -> tuple[int, int, float]:
    newest = max((executor.last_used for executor in evictions), default=0.0)
    return sum(executor.start_ms for executor in evictions), len(evictions), newest


def find_clearing(
    request: ResourceRequest, node: BoardNode, idle: list[WarmExecutor], policy: Policy
) -> Clearing | None:
    """Devices on the node that would fit if executors ended, with the least loss of warm ones.

    None where even the end of all of them does not help. An idle one has no CPUs to give back, a busy one has.

    Args:
        idle: executors of the node that may end, least recently used first; busy ones last, where they may end too.
    """
    cpus_milli = node.cpus_milli + sum(e.cpus_milli for e in idle)
    if node_matches(request, node.state) or request.cpus_milli > cpus_milli:
        return None
    if not request.gpus:
        for_memory = _for_host_memory(request, node, (), idle)
        return None if for_memory is None else Clearing(node, (), for_memory)
    options, evictions_of = [], {}
    for device in node.devices:
        evictions = _clear_device(request, device, idle, policy)
        if evictions is not None:
            rank = type_rank(request, device.state) or 0
            options.append((device.column, (*_price(evictions), rank), (device.room_mib, device.column)))
            evictions_of[device.column] = evictions
    if len(options) < request.gpus:
        return None
    chosen = closest_of(options, node.state, request.gpus)
    for_devices = {e.executor_id: e for column in chosen for e in evictions_of[column]}
    evicted = _for_host_memory(request, node, tuple(for_devices.values()), idle)
    if evicted is None:
        return None
    return Clearing(node, tuple(node.devices[column] for column in chosen), evicted)


def _for_host_memory(
    request: ResourceRequest, node: BoardNode, evicted: tuple[WarmExecutor, ...], idle: list[WarmExecutor]
) -> tuple[WarmExecutor, ...] | None:
    """What ends anyway, and as many more as give the node the host memory that is asked for; None: all are too few."""
    found = list(evicted)
    room = node.memory_mib + node.state.reclaiming_memory_mib
    room += sum(executor.host_memory_mib for executor in found)
    for executor in idle:
        if room >= request.host_memory_mib:
            break
        if executor.host_memory_mib and executor not in evicted:
            found.append(executor)
            room += executor.host_memory_mib
    return tuple(found) if room >= request.host_memory_mib else None


def _clear_device(
    request: ResourceRequest, device: BoardDevice, idle: list[WarmExecutor], policy: Policy
) -> tuple[WarmExecutor, ...] | None:
    """The idle executors to evict from a device for the request, least recently used first; None: it can't help."""
    state = device.state
    if type_rank(request, state) is None or not state.usable or device.held:
        return None
    if request.exclusive and state.foreign_mib > policy.exclusive_foreign_mib:
        return None
    here = [executor for executor in idle if state.uuid in executor.device_uuids]
    alone = request.exclusive or state.exclusive_process
    if alone or any(executor.exclusive for executor in here):
        staying = device.holders - len(here) - state.reclaiming_holders
        return (
            tuple(here) if staying <= 0 and _room_after(device, here) >= (request.memory_mib or 1) else None
        )
    if device.exclusive and not state.reclaiming_mib:
        return None
    evictions: list[WarmExecutor] = []
    for executor in here:
        if _room_after(device, evictions) >= (request.memory_mib or 1):
            break
        evictions.append(executor)
    return tuple(evictions) if _room_after(device, evictions) >= (request.memory_mib or 1) else None


def _room_after(device: BoardDevice, evictions: list[WarmExecutor]) -> int:
    """What comes back first covers what is used beyond the device's total."""
    back = device.state.reclaiming_mib + sum(executor.memory_mib for executor in evictions)
    return device.room_mib - device.state.overrun_mib + back
