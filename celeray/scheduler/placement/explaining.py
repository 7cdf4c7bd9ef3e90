"""Why a task goes where it goes, or waits: a verdict for each device, on demand.

It asks the same functions that a cycle asks, so it can't say anything else than a cycle would decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from celeray.scheduler.model import (
    Isolation,
    Placement,
    Reason,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement.board import Board
from celeray.scheduler.placement.filters import could_fit_idle
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.refusing import device_reasons, node_reasons
from celeray.scheduler.placement.reservation import plan
from celeray.scheduler.placement.rooms import Rooms
from celeray.scheduler.placement.warm import find_warm


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """One device, for one request. Memory in MiB."""

    uuid: str
    gpu_type: str | None
    reason: Reason | None
    """Why it can't take the request now. None: it can."""
    total_mib: int
    schedulable_mib: int
    """What may be reserved on it now."""
    foreign_mib: int
    held_by: tuple[WarmExecutor, ...]
    """The executors that have room on it."""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """One node, for one request."""

    node_id: str
    name: str
    reason: Reason | None
    """Why it has no place for the request now. None: it has one."""
    could_ever: bool
    """Whether it could hold the request with nothing else on it."""
    devices: tuple[DeviceVerdict, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one snapshot says of one request, nothing else waiting."""

    nodes: tuple[NodeVerdict, ...]
    free_in_ms: int | None
    """When enough of what runs is expected to have ended, from now; 0: there is room. None: that is not known, or
    it never does."""
    free_on: str | None
    """Id of the node where that is. None: nowhere."""
    warm: Placement | None = None
    """The idle executor of its class that would take it, whatever the nodes say of a new one. None: there is none."""


def explain(
    request: ResourceRequest, snapshot: Snapshot, policy: Policy, executor_class: str | None = None
) -> Explanation:
    """The verdict of every node and device for a request, as things are.

    Args:
        snapshot: as a cycle got it.
        executor_class: whose idle executors may take it. None: it needs a new one.
    """
    board = Board(snapshot)
    rooms = Rooms(board, policy)
    warm = _warm(request, board, executor_class)
    reasons = node_reasons(request, rooms)
    nodes = []
    for node, reason in zip(board.nodes, reasons, strict=True):
        of_devices = device_reasons(request, rooms, node.row) if request.gpus else [None] * len(node.devices)
        devices = tuple(
            DeviceVerdict(
                device.state.uuid,
                device.state.gpu_type,
                verdict,
                device.state.total_mib,
                device.state.schedulable_mib,
                device.state.foreign_mib,
                tuple(e for e in snapshot.executors if device.state.uuid in e.device_uuids),
            )
            for device, verdict in zip(node.devices, of_devices, strict=True)
        )
        could = could_fit_idle(request, node.state, policy)
        nodes.append(NodeVerdict(node.state.node_id, node.state.name, reason, could, devices))
    found = plan(request, board, snapshot, policy)
    free_in_ms = found.at_ms if found is not None and found.known else None
    if warm is not None:
        return Explanation(tuple(nodes), 0, warm.node_id, warm)
    return Explanation(tuple(nodes), free_in_ms, found.node.state.node_id if found is not None else None)


def _warm(request: ResourceRequest, board: Board, executor_class: str | None) -> Placement | None:
    if executor_class is None or request.isolation is not Isolation.WARM:
        return None
    found = find_warm(WaitingTask("", executor_class, request, 1, 0), board, lasting=False, barred=None)
    return None if found is None else found.placement
