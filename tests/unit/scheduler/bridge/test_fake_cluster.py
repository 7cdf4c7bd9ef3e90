"""The fake keeps the contract of a cluster, so what is tested on it holds on Ray."""

from __future__ import annotations

import time

import pytest

from celeray.scheduler.bridge.fake_cluster import FakeCluster
from tests.cluster_contract import ClusterContract, Place
from tests.integration.actors.live import LiveCluster


class TestFakeCluster(ClusterContract):
    @pytest.fixture
    def live(self) -> LiveCluster:
        cluster = FakeCluster({"n1": [("GPU-a", "T4", 16_384)]}, automatic=True)
        live = LiveCluster(cluster)
        # What the periodic readings are on a real one.
        live.reading = lambda node_id, condition=None: cluster.reading(node_id, time.monotonic())  # type: ignore[method-assign]
        cluster.start(live.listen)
        return live

    @pytest.fixture
    def place(self) -> Place:
        return "n1", ("GPU-a",)
