"""Fragmentation of a cluster by a workload, as "Beware of Fragmentation" (USENIX ATC 2023) defines it.

For a node and a shape of task: where the node can't take the shape, or the shape needs no device, all that is idle on
the node is fragment; else what is idle on devices with less left than the shape asks. Averaged over shapes by how often
they come, summed over nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from celeray.scheduler.model import DeviceState, NodeState
from celeray.scheduler.placement.filters import rank_of_type
from celeray.scheduler.simulation.tasks import TraceTask

COVERED = 0.95
"""Share of the tasks that the target workload covers, most frequent shapes first."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of task of the target workload."""

    gpus: int
    memory_mib: int | None
    """On each device. None: the whole device."""
    cpus_milli: int
    gpu_types: tuple[str, ...]
    popularity: float
    """Of all shapes together 1."""


def target_workload(tasks: Iterable[TraceTask]) -> tuple[Shape, ...]:
    """The most frequent shapes that cover 95 % of the tasks."""
    counts = Counter(
        (task.request.gpus, task.request.memory_mib, task.request.cpus_milli, task.request.gpu_types)
        for task in tasks
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], repr(item[0])))
    bound = COVERED * counts.total()
    kept: list[tuple[tuple[int, int | None, int, tuple[str, ...]], int]] = []
    covered = 0
    for shape, count in ordered:
        if covered >= bound:
            break
        kept.append((shape, count))
        covered += count
    return tuple(Shape(*shape, popularity=count / covered) for shape, count in kept)


def fragment_mib(nodes: Sequence[NodeState], workload: Sequence[Shape]) -> float:
    """Idle VRAM of the nodes that the workload can't use."""
    known: dict[object, float] = {}
    total = 0.0
    for node in nodes:
        left = tuple((device.gpu_type, device.schedulable_mib, device.total_mib) for device in node.devices)
        key = (node.cpus_free_milli, tuple(sorted(left, key=repr)))
        if (found := known.get(key)) is None:
            found = known[key] = sum(shape.popularity * _unusable_mib(node, shape) for shape in workload)
        total += found
    return total


def _unusable_mib(node: NodeState, shape: Shape) -> int:
    idle = sum(device.schedulable_mib for device in node.devices)
    if not shape.gpus or shape.cpus_milli > node.cpus_free_milli:
        return idle
    usable = [device.schedulable_mib for device in node.devices if _may_take(device, shape)]
    return idle if len(usable) < shape.gpus else idle - sum(usable)


def _may_take(device: DeviceState, shape: Shape) -> bool:
    wanted = device.total_mib if shape.memory_mib is None else shape.memory_mib
    return device.schedulable_mib >= wanted and rank_of_type(shape.gpu_types, device.gpu_type) is not None
