"""One real Ray cluster a session, on this machine, with nodes to add that have devices of their own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celeray.scheduler.transport.keeping import LeaseKeeper
from tests.fake_nvml import FakeDevice, FakeNvml

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI a test with real servers that fails runs once more, which the summary shows as a rerun.

    Thousands of them share two cores there. The fault tests (tests/faults) are not among them: what is lost or done
    twice once in a while is what they look for.
    """
    if os.environ.get("CI"):
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=1))


MIB = 1024 * 1024


@dataclass(frozen=True)
class AddedNode:
    """A node that a test added."""

    node_id: str
    nvml: FakeNvml | None
    """Its devices; None for a node without NVML."""
    ray_node: Any


class RayTestCluster:
    """Raylets on this machine. Tests talk to it by `address` only, through a driver process of their own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "num_gpus": 0,
                "object_store_memory": 100 * MIB,
                "include_dashboard": False,
            },
        )
        self._nodes: dict[str, AddedNode] = {}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def head_id(self) -> str:
        """Node id of the head: 2 CPUs, no devices."""
        return str(self._cluster.head_node.node_id)

    def add_node(
        self,
        devices: list[FakeDevice] | None = None,
        *,
        num_cpus: int = 2,
        num_gpus: int | None = None,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> AddedNode:
        """Add a node with its own raylet and its own fake NVML library.

        Args:
            devices: what its NVML shows; None: it has none.
            num_cpus: Ray's CPUs of the node, whatever the machine has.
            num_gpus: Ray's GPUs; default: one a device.
            env: more environment of its raylet and of all processes that this starts.
            options: more arguments of `ray.cluster_utils.Cluster.add_node`.
        """
        environment, nvml = dict(env or {}), None
        if devices is not None:
            nvml = FakeNvml(self._folder / f"nvml-{secrets.token_hex(4)}", devices)
            environment = nvml.environment() | environment
        ray_node = self._cluster.add_node(
            num_cpus=num_cpus,
            num_gpus=len(devices or ()) if num_gpus is None else num_gpus,
            object_store_memory=100 * MIB,
            env_vars=environment,
            **options,
        )
        added = AddedNode(str(ray_node.node_id), nvml, ray_node)
        self._nodes[added.node_id] = added
        return added

    def remove_node(self, node: AddedNode) -> None:
        """Kill the node's processes at once, as a power cut would. Safe to call twice."""
        if self._nodes.pop(node.node_id, None) is not None:
            self._cluster.remove_node(node.ray_node, allow_graceful=False)

    def shutdown(self) -> None:
        for node in list(self._nodes.values()):
            self.remove_node(node)
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder and the environment of the session's Ray: token authentication, no idle workers, no calls home."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        # Ray may have been imported before, and read its environment then.
        from ray._raylet import Config

        Config.initialize("")
        yield folder
        Config.initialize("")


@pytest.fixture(scope="session")
def ray_cluster(ray_environment: Path) -> Iterator[RayTestCluster]:
    """The one cluster of the session."""
    cluster = RayTestCluster(ray_environment)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def no_lease_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection's own thread renews, restores or brings back: it would race with what the test does by hand."""
    monkeypatch.setattr(LeaseKeeper, "start", lambda _: None)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what would reach settings or Ray from the tester's own environment."""
    for key in list(os.environ):
        if key.startswith("CELERAY_"):
            monkeypatch.delenv(key)
