"""Ray keeps the contract of a cluster, as the fake does."""

from __future__ import annotations

import pytest

from tests.cluster_contract import ClusterContract, Place
from tests.integration.actors.conftest import A
from tests.integration.actors.live import LiveCluster
from tests.integration.conftest import AddedNode


class TestRayCluster(ClusterContract):
    @pytest.fixture
    def place(self, gpu_node: AddedNode) -> Place:
        return gpu_node.node_id, (A,)

    # A node's groups and its agent end and begin again: half a minute.
    @pytest.mark.slow
    def test_devices_that_are_given_back_are_there_for_an_ask_and_can_be_taken_back(
        self, live: LiveCluster, place: Place
    ) -> None:
        super().test_devices_that_are_given_back_are_there_for_an_ask_and_can_be_taken_back(live, place)
