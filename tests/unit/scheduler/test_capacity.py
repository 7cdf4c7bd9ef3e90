"""What can never fit, said by name; and that not knowing never refuses."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.capacity import (
    CapacityReader,
    ClusterCapacity,
    DeviceCapacity,
    NodeCapacity,
    could_ever_fit,
)
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.elastic.node_types import NodeType, empty_nodes
from celeray.scheduler.errors import ConfigurationError, NeverFitsError
from celeray.scheduler.model import DeviceReading, NodeReading
from celeray.scheduler.requests import effective_request

GIB = 1024


def node(
    *devices: tuple[str | None, int | None], labels: dict[str, str] | None = None, cpus: int = 8
) -> NodeCapacity:
    made = tuple(DeviceCapacity(name, None if gib is None else gib * GIB) for name, gib in devices)
    return NodeCapacity(cpus * 1000, 64 * GIB, labels or {}, made)


CLUSTER = ClusterCapacity(
    (
        node(("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA A100-SXM4-80GB", 80), labels={"zone": "a"}),
        node(("NVIDIA L4", 24), labels={"zone": "b"}, cpus=32),
    )
)


@pytest.mark.parametrize(
    "asked",
    [
        {"gpu": True},
        {"gpu": 2, "vram_gb": 80},
        {"vram_gb": 24, "gpu_type": "L4"},
        {"vram_gb": 40, "gpu_type": ["l4", "a100"], "labels": {"zone": "a"}},
        {"vram_gb": 10, "cpus": 32},
        {"cpus": 10_000},
    ],
)
def test_what_an_idle_node_holds_is_welcome(asked: dict[str, Any]) -> None:
    assert could_ever_fit(effective_request(asked, None, None), CLUSTER) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"vram_gb": 200}, "vram_gb=200: the largest device has 80 GiB"),
        ({"vram_gb": 80.5}, "vram_gb=80.5: the largest device has 80 GiB"),
        ({"vram_gb": 25, "gpu_type": "L4"}, "vram_gb=25: the largest device of type L4 has 24 GiB"),
        ({"gpu": 3, "vram_gb": 1}, "gpu=3: the largest node has 2 devices"),
        ({"gpu_type": "H100"}, "gpu_type=['H100']: the cluster has NVIDIA A100-SXM4-80GB, NVIDIA L4"),
        ({"gpu": True, "labels": {"zone": "c"}}, "labels={'zone': 'c'}: no node of the cluster has them"),
        ({"gpu": True, "cpus": 33}, "cpus=33: the largest node has 32 CPUs"),
        ({"gpu": True, "memory_gb": 65}, "memory_gb=65: the largest node has 64 GiB"),
        (
            {"vram_gb": 40, "cpus": 16, "gpu_type": ["A100"], "labels": {"zone": "a"}},
            "gpu=1: no node has all of it at once: 1 devices, of type A100, with 40 GiB each, 16 CPUs, "
            "0 GiB of memory, zone=a",
        ),
    ],
)
def test_what_none_holds_is_refused_by_name(asked: dict[str, Any], said: str) -> None:
    error = could_ever_fit(effective_request(asked, None, None), CLUSTER)
    assert isinstance(error, NeverFitsError)
    assert str(error) == f"resource_requirements: {said}"


def test_a_cluster_without_devices_refuses_any() -> None:
    error = could_ever_fit(effective_request({"gpu": True}, None, None), ClusterCapacity((node(),)))
    assert error is not None
    assert error.bound == "the cluster has no devices"


@pytest.mark.parametrize(
    "capacity",
    [
        None,
        ClusterCapacity(),
        ClusterCapacity(CLUSTER.nodes, may_grow=True),
        ClusterCapacity((*CLUSTER.nodes, node(("NVIDIA X", None)))),
    ],
)
def test_not_knowing_is_no_reason(capacity: ClusterCapacity | None) -> None:
    assert could_ever_fit(effective_request({"vram_gb": 200}, None, None), capacity) is None


def test_a_node_that_may_come_counts_less_the_headroom() -> None:
    kind = NodeType(gpus=2, gpu_type="H100", vram="80GiB", cpus=64, memory="400GiB", max=1, start_s=60)
    [state] = empty_nodes({"h100": kind}, headroom_mib=GIB)
    cluster = ClusterCapacity((*CLUSTER.nodes, NodeCapacity.of_state(state)))

    def refused(**asked: Any) -> str | None:
        error = could_ever_fit(effective_request(asked, None, None), cluster)
        return None if error is None else str(error)

    assert refused(gpu=2, vram_gb=79, gpu_type="H100", cpus=64) is None
    told = refused(vram_gb=80, gpu_type="H100")
    assert told is not None
    assert told.endswith("vram_gb=80: the largest device of type H100 has 79 GiB")


def test_a_node_as_it_was_read_less_the_headroom() -> None:
    devices = (
        DeviceReading("u1", 0, "L4", 24 * GIB, 100, ()),
        DeviceReading("u2", 1, None, None, None, None),
        DeviceReading("u3", 2, "tiny", 512, 0, ()),
    )
    reading = NodeReading("n", "n", "127.0.0.1", 4000, 8 * GIB, {"zone": "a"}, devices, 0.0)
    assert NodeCapacity.of(reading, headroom_mib=1024) == NodeCapacity(
        4000,
        8 * GIB,
        {"zone": "a"},
        (DeviceCapacity("L4", 23 * GIB), DeviceCapacity(None, None), DeviceCapacity("tiny", 0)),
    )


@pytest.mark.parametrize("error", [OSError("away"), ConfigurationError("no Redis")])
def test_the_reader_survives_errors_and_asks_again_later(error: Exception) -> None:
    clock, asked = ManualClock(), []

    def connect() -> Any:
        asked.append(clock.monotonic())
        raise error

    reader = CapacityReader(clock=clock)
    assert reader.current(connect) is None
    assert reader.current(connect) is None
    clock.advance(5.0)
    assert reader.current(connect) is None
    assert len(asked) == 2
