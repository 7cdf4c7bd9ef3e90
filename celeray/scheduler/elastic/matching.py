"""Of which type a node is."""

from __future__ import annotations

from collections.abc import Mapping

from celeray.scheduler.elastic.node_types import GROUP_LABEL, NodeType
from celeray.scheduler.model import NodeReading
from celeray.scheduler.placement.filters import rank_of_type


def type_of(reading: NodeReading, types: Mapping[str, NodeType]) -> str | None:
    """Name of the node's type; None: it is of none.

    Ray's own label decides where the node has it. Autoscaler v1 gives none: there the number of devices, their name as
    far as it is known, and the labels of the type do, and of types that are alike in these the first by name.
    """
    group = reading.labels.get(GROUP_LABEL)
    if group is not None:
        return group if group in types else None
    return next((name for name, kind in sorted(types.items()) if _is_like(reading, kind)), None)


def _is_like(reading: NodeReading, kind: NodeType) -> bool:
    if len(reading.devices) + reading.unleased != kind.gpus:
        return False
    if any(reading.labels.get(key) != value for key, value in kind.labels.items()):
        return False
    names = [device.name for device in reading.devices if device.name is not None]
    return kind.gpu_type is None or all(rank_of_type((kind.gpu_type,), name) is not None for name in names)
