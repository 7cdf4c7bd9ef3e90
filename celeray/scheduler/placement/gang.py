"""Devices for one request on one node: all of them or none."""

from __future__ import annotations

from dataclasses import dataclass

from celeray.scheduler.model import Reason, ResourceRequest, WarmExecutor
from celeray.scheduler.placement.board import Board, BoardDevice, BoardNode
from celeray.scheduler.placement.filters import device_fits, node_has_room, node_matches, type_rank
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.scores import device_score


@dataclass(frozen=True, slots=True)
class Gang:
    """A node and the devices chosen on it, best first."""

    node: BoardNode
    devices: tuple[BoardDevice, ...]


@dataclass(frozen=True, slots=True)
class Clearing:
    """A gang that fits once memory came back: idle executors to evict, none where all of it is coming already."""

    node: BoardNode
    devices: tuple[BoardDevice, ...]
    evictions: tuple[WarmExecutor, ...]


def find_gang(request: ResourceRequest, node: BoardNode, policy: Policy) -> Gang | Reason:
    """The node's best devices for the request as things are, or why there are none."""
    if reason := node_matches(request, node.state):
        return reason
    fitting: list[BoardDevice] = []
    refused: list[Reason] = []
    for device in node.devices if request.gpus else ():
        if reason := device_fits(request, device, policy):
            refused.append(reason)
        else:
            fitting.append(device)
    if len(fitting) < request.gpus:
        return _shortage(request, node, refused)
    if reason := node_has_room(request, node):
        return reason
    best = sorted(fitting, key=lambda device: device_score(request, device))
    return Gang(node, tuple(best[: request.gpus]))


def _shortage(request: ResourceRequest, node: BoardNode, refused: list[Reason]) -> Reason:
    if len(node.devices) < request.gpus:
        return Reason.DEVICES
    # The first device that would have made up the number: sorted so that the nearest ones come first.
    nearest = sorted(refused, key=_distance)
    missing = request.gpus - (len(node.devices) - len(refused))
    return nearest[missing - 1]


def _distance(reason: Reason) -> int:
    order = (Reason.RECLAIMING, Reason.VRAM, Reason.EXCLUSIVE, Reason.UNUSABLE, Reason.GPU_TYPE)
    return order.index(reason)


def find_clearing(request: ResourceRequest, node: BoardNode, board: Board, policy: Policy) -> Clearing | None:
    """Devices on the node that would fit if idle executors ended, with the least loss of warm ones.

    None where even that does not help, or where CPUs or host memory are what is missing.
    """
    if node_matches(request, node.state) or request.cpus_milli > node.cpus_milli:
        return None
    idle = board.idle_on(node.state.node_id)
    if not request.gpus:
        return _clear_host_memory(request, node, idle)
    if request.host_memory_mib > node.memory_mib + sum(e.host_memory_mib for e in idle):
        return None
    options = []
    for device in node.devices:
        evictions = _clear_device(request, device, idle, policy)
        if evictions is not None:
            newest = max((e.last_used for e in evictions), default=0.0)
            options.append(((len(evictions), newest, *device_score(request, device)), device, evictions))
    if len(options) < request.gpus:
        return None
    chosen = sorted(options, key=lambda option: option[0])[: request.gpus]
    evicted = {e.executor_id: e for _, _, evictions in chosen for e in evictions}
    return Clearing(node, tuple(device for _, device, _ in chosen), tuple(evicted.values()))


def _clear_host_memory(
    request: ResourceRequest, node: BoardNode, idle: list[WarmExecutor]
) -> Clearing | None:
    room, evictions = node.memory_mib, []
    for executor in idle:
        if room >= request.host_memory_mib:
            break
        if executor.host_memory_mib:
            evictions.append(executor)
            room += executor.host_memory_mib
    return Clearing(node, (), tuple(evictions)) if evictions and room >= request.host_memory_mib else None


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
    return device.room_mib + device.state.reclaiming_mib + sum(executor.memory_mib for executor in evictions)
