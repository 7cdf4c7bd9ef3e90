"""Fragmentation by hand: what a workload can't use of what is idle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.model import NodeState
from celeray.scheduler.simulation.fragmentation import Shape, fragment_mib, target_workload
from tests.unit.scheduler.simulation.small import GIB, node, task


def state(*left_gib: int, cpus: int = 8, gpu_type: str | None = None) -> NodeState:
    """A node with 16 GiB devices of which so much is idle."""
    idle = node("n", *(16 for _ in left_gib), cpus=cpus, gpu_type=gpu_type).idle()
    pairs = zip(idle.devices, left_gib, strict=True)
    return replace(idle, devices=tuple(replace(device, schedulable_mib=left * GIB) for device, left in pairs))


def shape(gib: int | None, *, gpus: int = 1, cpus: int = 1, types: tuple[str, ...] = ()) -> Shape:
    return Shape(gpus, None if gib is None else gib * GIB, cpus * 1000, types, 1.0)


@pytest.mark.parametrize(
    ("left", "wanted", "fragment_gib"),
    [
        ((16, 4), shape(8), 4),  # the device with 4 GiB can't take 8
        ((16, 8), shape(8), 0),
        ((4, 4), shape(8), 8),  # no device can: all is fragment
        ((16, 8, 3), shape(8, gpus=2), 3),
        ((16, 7, 3), shape(8, gpus=2), 26),  # one of two is not enough
        ((16, 8), shape(None), 8),  # a whole device
        ((16, 16), shape(0, gpus=0), 32),  # a task without a device uses none of it
        ((16, 16), shape(8, cpus=9), 32),  # the CPUs are missing
        ((16, 16), shape(8, types=("T4",)), 32),
    ],
)
def test_one_node_and_one_shape(left: tuple[int, ...], wanted: Shape, fragment_gib: int) -> None:
    assert fragment_mib([state(*left, gpu_type="V100")], [wanted]) == fragment_gib * GIB


def test_shapes_count_by_how_often_they_come_and_nodes_add_up() -> None:
    workload = [replace(shape(8), popularity=0.75), replace(shape(2), popularity=0.25)]
    assert fragment_mib([state(4), state(4), state(16)], workload) == 2 * 0.75 * 4 * GIB


def test_the_workload_is_the_most_frequent_shapes_of_95_percent() -> None:
    tasks = [task("a", 8)] * 60 + [task("b", 4)] * 36 + [task("c", 2)] * 4
    workload = target_workload(tasks)
    assert [(one.memory_mib, one.popularity) for one in workload] == [(8 * GIB, 0.625), (4 * GIB, 0.375)]
