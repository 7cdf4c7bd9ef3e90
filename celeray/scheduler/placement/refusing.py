"""Why a request has no place: for each device, for each node, and in one word.

The farther a node gets along `PROGRESS`, the nearer the task was to a place there; the nearest node's reason is the
task's. On a node with too few devices that fit, the reason is that of the device which would have made up the number,
the nearest ones first.
"""

from __future__ import annotations

import numpy as np

from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.placement.rooms import UNWANTED, Ints, Rooms

PROGRESS: tuple[Reason | None, ...] = (
    Reason.LABELS,
    Reason.DEVICES,
    Reason.GPU_TYPE,
    Reason.UNUSABLE,
    Reason.EXCLUSIVE,
    Reason.VRAM,
    Reason.HOST_MEMORY,
    Reason.CPUS,
    Reason.RESERVED,
    Reason.STARTING,
    Reason.WARM,
    Reason.BUSY,
    Reason.RECLAIMING,
    None,
)
"""From what never changes to what soon will. None: it fits."""
_STEP = {reason: step for step, reason in enumerate(PROGRESS)}
_DEVICE_ORDER = np.array(
    [
        _STEP[reason]
        for reason in (
            None,
            Reason.RECLAIMING,
            Reason.RESERVED,
            Reason.VRAM,
            Reason.EXCLUSIVE,
            Reason.UNUSABLE,
            Reason.GPU_TYPE,
        )
    ],
    dtype=np.int64,
)
"""Of a node's devices, the nearest to fitting first."""
_FAR = len(_DEVICE_ORDER)
"""Where a node has no device."""
_PLACE = {step: place for place, step in enumerate(_DEVICE_ORDER.tolist())}


def device_reasons(
    request: ResourceRequest, rooms: Rooms, row: int, *, lasting: bool = False
) -> list[Reason | None]:
    """Of each device of a node; None: it fits."""
    rows = np.array([row], dtype=np.int64)
    places = _device_places(request, rooms, rows, lasting=lasting)[0]
    return [PROGRESS[_DEVICE_ORDER[place]] for place in places[: rooms.counts[row]].tolist()]


def node_reasons(request: ResourceRequest, rooms: Rooms, *, lasting: bool = False) -> list[Reason | None]:
    """Of every node, by row; None: it has a place."""
    return [PROGRESS[step] for step in _node_steps(request, rooms, lasting=lasting).tolist()]


def closest(reasons: list[Reason]) -> Reason:
    """The reason of the node that came nearest to fitting."""
    return max(reasons, key=_STEP.__getitem__)


def _node_steps(request: ResourceRequest, rooms: Rooms, *, lasting: bool) -> Ints:
    rows = np.arange(len(rooms.counts), dtype=np.int64)
    steps = np.full(len(rows), _STEP[None], dtype=np.int64)
    # What stands first is overwritten by what stands after it, so the last of these is the node's reason.
    for reason, holds in rooms.node_refusals(request, lasting=lasting):
        steps[holds] = _STEP[reason]
    if request.gpus:
        short = rooms.counts < request.gpus
        places = np.sort(_device_places(request, rooms, rows, lasting=lasting), axis=1)
        nearest = (
            np.where(short, 0, places[:, min(request.gpus, rooms.width) - 1]) if rooms.width else steps * 0
        )
        lacking = nearest > 0
        steps[lacking] = _DEVICE_ORDER[nearest[lacking]]
        steps[short] = _STEP[Reason.DEVICES]
    steps[rooms.draining] = _STEP[Reason.UNUSABLE]
    if request.labels:
        steps[~rooms.labelled(request.labels)] = _STEP[Reason.LABELS]
    return steps


def _device_places(request: ResourceRequest, rooms: Rooms, rows: Ints, *, lasting: bool) -> Ints:
    need = max(1, request.memory_mib or 0)
    places = np.zeros((len(rows), rooms.width), dtype=np.int64)
    if lasting:
        places[rooms.room(request, rows, lasting=True) < need] = _PLACE[_STEP[Reason.RESERVED]]
    places[rooms.room(request, rows, lasting=False) < need] = _PLACE[_STEP[Reason.VRAM]]
    for reason in (Reason.RECLAIMING, Reason.EXCLUSIVE, Reason.UNUSABLE):
        places[rooms.stands(request, rows, reason)] = _PLACE[_STEP[reason]]
    if request.gpu_types:
        places[rooms.ranks(request.gpu_types, rows) >= UNWANTED] = _PLACE[_STEP[Reason.GPU_TYPE]]
    places[np.arange(rooms.width)[None, :] >= rooms.counts[rows][:, None]] = _FAR
    return places
