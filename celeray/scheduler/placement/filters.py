"""May it run there? What is true of one node, one device or one executor; `refusing` puts it together for a request.

Sources: VRAM per device and not per node is what users ask for (ray#26929, celery#8482); an exclusive-process device
never gets a second process, since the driver would refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeray.scheduler.model import DeviceState, NodeState, Reason, ResourceRequest, WarmExecutor
from celeray.scheduler.placement.board import BoardDevice
from celeray.scheduler.placement.policy import Policy


def node_matches(request: ResourceRequest, node: NodeState) -> Reason | None:
    """Labels and draining: what no waiting changes by itself."""
    if any(node.labels.get(key) != value for key, value in request.labels):
        return Reason.LABELS
    if node.draining:
        return Reason.UNUSABLE
    return None


def type_rank(request: ResourceRequest, device: DeviceState) -> int | None:
    """Position of the device's type in the request's preference; None where it is not acceptable."""
    return rank_of_type(request.gpu_types, device.gpu_type)


def rank_of_type(gpu_types: Sequence[str], gpu_type: str | None) -> int | None:
    """Position of a type in a preference, which may be empty; None where it is not acceptable.

    A type matches when the device's name contains it, ignoring case, spaces, dashes and underscores: `A100` matches
    `NVIDIA A100-SXM4-80GB`.
    """
    if not gpu_types:
        return 0
    name = _plain(gpu_type or "")
    return next((rank for rank, wanted in enumerate(gpu_types) if _plain(wanted) in name), None)


def _plain(text: str) -> str:
    return text.lower().replace(" ", "").replace("-", "").replace("_", "")


def standing(device: BoardDevice, policy: Policy, *, whole: bool) -> Reason | None:
    """Why a device takes no new executor now, whatever type and VRAM are asked.

    Args:
        whole: the executor wants it for itself.
    """
    if not device.state.usable:
        return Reason.UNUSABLE
    if device.held:
        return Reason.RECLAIMING
    if device.exclusive or (device.state.exclusive_process and device.holders):
        return Reason.EXCLUSIVE
    if whole and (device.holders or device.state.foreign_mib > policy.exclusive_foreign_mib):
        return Reason.EXCLUSIVE
    return None


def executor_fits(request: ResourceRequest, executor: WarmExecutor) -> bool:
    """Whether a warm executor of the task's class has reserved enough for it."""
    if len(executor.device_uuids) != request.gpus or request.host_memory_mib > executor.host_memory_mib:
        return False
    if request.gpus == 0:
        return True
    return executor.exclusive if request.exclusive else executor.memory_mib >= (request.memory_mib or 0)


def warm_device_fits(request: ResourceRequest, device: BoardDevice | None) -> bool:
    """Whether a device on which the executor has its reservation may be used now.

    A lost or unreadable device, one whose memory others have taken meanwhile, or one of a type that this task does
    not accept (a shared executor) would fail the task.
    """
    return (
        device is not None
        and device.state.usable
        and device.state.overrun_mib == 0
        and type_rank(request, device.state) is not None
    )


def could_ever_fit(request: ResourceRequest, nodes: Sequence[NodeState], policy: Policy) -> bool:
    """Whether one of the nodes could hold the request with nothing else on it.

    A cluster without any device is one whose devices are still to come.
    """
    if request.gpus and not any(node.devices for node in nodes):
        return True
    return any(could_fit_idle(request, node, policy) for node in nodes)


def could_fit_idle(request: ResourceRequest, node: NodeState, policy: Policy) -> bool:
    """Whether the node could hold the request with nothing else on it.

    A device whose total memory isn't known (unreadable now, or not leased) counts as one that might, so that a
    passing failure never ends a task.
    """
    if any(node.labels.get(key) != value for key, value in request.labels):
        return False
    if request.cpus_milli > node.cpus_milli or request.host_memory_mib > node.memory_mib:
        return False
    needed = max(1, request.memory_mib or 0)
    fitting = sum(
        device.total_mib == 0
        or (type_rank(request, device) is not None and device.total_mib - policy.headroom_mib >= needed)
        for device in node.devices
    )
    return fitting >= request.gpus
