"""Ray keeps the contract of a cluster, as the fake does."""

from __future__ import annotations

import pytest

from tests.cluster_contract import ClusterContract, Place
from tests.integration.actors.conftest import A
from tests.integration.conftest import AddedNode


class TestRayCluster(ClusterContract):
    @pytest.fixture
    def place(self, gpu_node: AddedNode) -> Place:
        return gpu_node.node_id, (A,)
