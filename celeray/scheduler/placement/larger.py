"""What a task asks for next whose GPU memory ran out, and when there is no next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from celeray.scheduler.model import DeviceState, NodeState, OnOom, ResourceRequest
from celeray.scheduler.placement.filters import type_rank
from celeray.scheduler.placement.policy import Policy

STEP_PERCENT = 150
"""Of what was reserved, for the next run. At most a third of what is reserved in the end is too much then, and 8 GiB
become 80 in six steps."""


@dataclass(frozen=True, slots=True)
class Tries:
    """Runs of one message whose GPU memory ran out."""

    done: int
    """Before the run that is decided about."""
    most: int
    """Runs of the message in all. The last one's failure is the task's."""


def place_again(
    request: ResourceRequest,
    *,
    reserved_mib: int,
    largest_mib: int | None,
    learned_mib: int | None,
    tries: Tries,
) -> ResourceRequest | None:
    """The request for the run after one whose memory ran out. None: that run's failure is the task's.

    Half again of what was reserved, or what was learned where that is more, at most `vram_gb_max` and the largest
    device. What had that much already has no next step. A task on whole devices goes to larger ones, and keeps them
    whole.

    Args:
        reserved_mib: on each device, for the run; of whole devices all that they have.
        largest_mib: see `largest_device_mib`. None: no device of the cluster is known.
        learned_mib: most that runs of the task were seen to use. None: not known.
    """
    if not request.gpus or request.on_oom is OnOom.FAIL or tries.done + 1 >= tries.most:
        return None
    bound = min(
        (mib for mib in (request.memory_mib_max, largest_mib) if mib is not None), default=reserved_mib
    )
    if reserved_mib >= bound:
        return None
    step = -(-reserved_mib * STEP_PERCENT // 100)
    return replace(request, memory_mib=min(bound, max(step, learned_mib or 0)))


def largest_device_mib(request: ResourceRequest, nodes: Sequence[NodeState], policy: Policy) -> int | None:
    """Most memory that the request could ever get on each of its devices, on one node. None: it fits on no known one.

    Devices that can't be used now count, as in what fits never: a reading that fails, or a device that is drained, must
    not end a task. One whose memory isn't known does not.
    """
    found = [mib for node in nodes if (mib := _largest_of(request, node, policy)) is not None]
    return max(found, default=None)


def idle_room_mib(device: DeviceState, policy: Policy) -> int:
    """What the device gives out when idle, beside the foreign memory that a whole device may have: a display, say."""
    foreign = min(device.foreign_mib, policy.exclusive_foreign_mib)
    return max(0, device.total_mib - policy.headroom_mib - foreign)


def _largest_of(request: ResourceRequest, node: NodeState, policy: Policy) -> int | None:
    if any(node.labels.get(key) != value for key, value in request.labels):
        return None
    if request.cpus_milli > node.cpus_milli or request.host_memory_mib > node.memory_mib:
        return None
    rooms = sorted(
        (
            idle_room_mib(device, policy)
            for device in node.devices
            if device.total_mib and type_rank(request, device) is not None
        ),
        reverse=True,
    )
    return rooms[request.gpus - 1] if 0 < request.gpus <= len(rooms) else None
