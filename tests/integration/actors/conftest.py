"""Two nodes with devices, and one connected cluster a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.fake_nvml import FakeDevice
from tests.integration.actors.live import APPS, LiveCluster, live_cluster
from tests.integration.conftest import AddedNode, RayTestCluster

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"


@pytest.fixture(scope="session", autouse=True)
def importable_apps() -> Iterator[None]:
    """What executors return may hold the app's own exceptions, which are read in this process."""
    sys.path.append(str(APPS))
    yield
    sys.path.remove(str(APPS))


@pytest.fixture(scope="module")
def gpu_node(ray_cluster: RayTestCluster) -> Iterator[AddedNode]:
    """A node with an A100 and a smaller card, in NVML's order."""
    node = ray_cluster.add_node(
        [FakeDevice(A, pcie={B: 50}), FakeDevice(B, name="NVIDIA A10", total_mib=24576)], num_cpus=8
    )
    yield node
    ray_cluster.remove_node(node)


@pytest.fixture(scope="module")
def live(
    ray_cluster: RayTestCluster, gpu_node: AddedNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveCluster]:
    """A cluster that has read both devices of `gpu_node`."""
    log = tmp_path_factory.mktemp("driver") / "driver.log"
    with live_cluster(ray_cluster.address, log, reading_interval_s=0.25) as cluster:
        cluster.reading(gpu_node.node_id, lambda reading: len(reading.devices) == 2)
        yield cluster
