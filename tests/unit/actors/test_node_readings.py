"""Which devices of a node are this bridge's, and how a node is named."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.actors.device_leases import NodeLease, match_device
from celeray.actors.node_agent import AgentReading
from celeray.actors.nodes import Node, compose
from celeray.scheduler.model import DeviceReading


def device(uuid: str, index: int) -> DeviceReading:
    return DeviceReading(uuid, index, "NVIDIA A10", 24576, 0, ())


DEVICES = (device("GPU-aaaa1111", 0), device("GPU-aaaa2222", 1), device("GPU-bbbb3333", 2))


@pytest.mark.parametrize(
    ("token", "uuid"),
    [
        ("0", "GPU-aaaa1111"),
        ("2", "GPU-bbbb3333"),
        ("3", None),
        ("GPU-bbbb3333", "GPU-bbbb3333"),
        ("GPU-bbbb", "GPU-bbbb3333"),
        ("GPU-aaaa", None),
        ("MIG-1", None),
    ],
)
def test_rays_token_is_an_index_or_an_unambiguous_uuid(token: str, uuid: str | None) -> None:
    found = match_device(token, DEVICES)

    assert (found.uuid if found else None) == uuid


def lease(tokens: list[str]) -> NodeLease:
    """A lease that Ray has granted."""
    granted = NodeLease("n1", len(tokens))
    granted._tokens, granted._groups = tokens, [f"group of {token}" for token in tokens]  # type: ignore[misc]
    return granted


def test_only_leased_devices_are_reported_and_each_knows_its_group() -> None:
    granted = lease(["2", "0"])

    assert [d.uuid for d in granted.leased(DEVICES)] == ["GPU-bbbb3333", "GPU-aaaa1111"]
    assert granted.group("GPU-bbbb3333") == "group of 2"
    assert granted.group("GPU-aaaa2222") is None
    # A device that NVML does not show for a while is still in its group.
    assert granted.leased(()) == ()
    assert granted.group("GPU-aaaa1111") == "group of 0"


def info(**changes: Any) -> dict[str, Any]:
    return {
        "NodeID": "n1",
        "NodeName": "10.0.0.7",
        "NodeManagerAddress": "10.0.0.7",
        "NodeManagerHostname": "worker-7",
        "Resources": {"CPU": 3.5, "memory": 8 * 2.0**30, "GPU": 1.0},
        "Labels": {"ray.io/node-id": "n1", "zone": "a"},
    } | changes


def agent_reading(holds_folder: str | None = None) -> AgentReading:
    return AgentReading("worker-7", 4, 16384, DEVICES, "550", True, holds_folder)


def test_capacities_are_rays_and_devices_the_leased_ones() -> None:
    reading = compose(Node("n1", info(), lease(["1"])), agent_reading(), 12.5)

    assert (reading.cpus_milli, reading.memory_mib) == (3500, 8192)
    assert [d.uuid for d in reading.devices] == ["GPU-aaaa2222"]
    assert (reading.name, reading.address) == ("worker-7", "10.0.0.7")
    assert reading.labels == {"ray.io/node-id": "n1", "zone": "a"}
    assert reading.requested_at == 12.5
    assert not reading.simulated


def test_a_node_is_called_by_the_name_it_was_given() -> None:
    reading = compose(Node("n1", info(NodeName="big-one"), lease([])), agent_reading("/folder"), 1.0)

    assert reading.name == "big-one"
    assert reading.simulated


def test_without_rays_figures_the_hosts_count_and_no_cpus_are_given_out() -> None:
    reading = compose(Node("n1", info(Resources={}), lease([])), agent_reading(), 1.0)

    assert (reading.cpus_milli, reading.memory_mib) == (0, 16384)
