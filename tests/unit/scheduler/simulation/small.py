"""Small traces and clusters for the simulator's tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

from celeray.scheduler.model import Isolation, ResourceRequest
from celeray.scheduler.simulation.nodes import DeviceSpec, NodeSpec
from celeray.scheduler.simulation.tasks import TraceTask
from celeray.scheduler.simulation.workload import Arrival

GIB = 1024


def node(name: str, *gib: int, cpus: int = 0, gpu_type: str | None = None) -> NodeSpec:
    return NodeSpec(name, cpus * 1000, 0, tuple(DeviceSpec(each * GIB, gpu_type) for each in gib))


def task(name: str, gib: int | None, *, gpus: int = 1, cpus: int = 0, priority: int = 5) -> TraceTask:
    """`gib` None: whole devices."""
    request = ResourceRequest(
        gpus=gpus,
        memory_mib=None if gib is None else gib * GIB,
        exclusive=gib is None and gpus > 0,
        cpus_milli=cpus * 1000,
        isolation=Isolation.FRESH,
    )
    return TraceTask(name, request, priority=priority)


def mixed_tasks(count: int, seed: int, *, priorities: Sequence[int] = (5,)) -> list[TraceTask]:
    draw = random.Random(seed)
    shapes = [(2, 1), (4, 1), (6, 1), (8, 1), (8, 2), (None, 1), (None, 2)]
    found = []
    for number in range(count):
        gib, gpus = draw.choice(shapes)
        found.append(task(f"t{number}", gib, gpus=gpus, priority=draw.choice(priorities)))
    return found


def mixed_arrivals(count: int, seed: int, *, priorities: Sequence[int] = (5,)) -> list[Arrival]:
    """More than three devices of 8 GiB can take at once, so that tasks wait."""
    draw = random.Random(seed + 1)
    at, found = 0, []
    for one in mixed_tasks(count, seed, priorities=priorities):
        at += draw.randrange(0, 40)
        found.append(Arrival(one, at, draw.randrange(1, 200)))
    return found
