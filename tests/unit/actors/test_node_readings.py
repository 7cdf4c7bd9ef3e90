"""Which devices of a node are this bridge's, and how a node is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celeray.actors.device_leases import NOT_SHOWN, NodeLease, _Phase, match_device
from celeray.actors.node_agent import AgentReading
from celeray.actors.nodes import Node, compose
from celeray.scheduler.model import DeviceReading, Health


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
    granted._phase = _Phase.HELD
    return granted


def test_only_leased_devices_are_reported_and_each_knows_its_group() -> None:
    granted = lease(["2", "0"])

    assert [d.uuid for d in granted.leased(DEVICES)] == ["GPU-bbbb3333", "GPU-aaaa1111"]
    assert granted.group("GPU-bbbb3333") == "group of 2"
    assert granted.group("GPU-aaaa2222") is None


def test_devices_stay_leased_while_nvml_shows_none() -> None:
    granted = lease(["2", "0"])
    granted.leased(DEVICES)

    for _ in range(2):
        lost = granted.leased(())
        assert [(d.uuid, d.index, d.name) for d in lost] == [
            ("GPU-bbbb3333", 2, "NVIDIA A10"),
            ("GPU-aaaa1111", 0, "NVIDIA A10"),
        ]
        assert {(d.total_mib, d.used_mib, d.processes) for d in lost} == {(None, None, None)}
        assert {(d.health, d.health_reason) for d in lost} == {(Health.UNKNOWN, NOT_SHOWN)}
    assert granted.group("GPU-aaaa1111") == "group of 0"
    assert granted.leased(DEVICES) == (DEVICES[2], DEVICES[0])


def test_a_lost_device_keeps_its_name() -> None:
    granted = lease(["0"])
    granted.leased(DEVICES)

    (lost,) = granted.leased([replace(DEVICES[0], name=None, total_mib=None, used_mib=None)])

    assert (lost.name, lost.total_mib) == ("NVIDIA A10", None)


def test_an_index_that_moved_on_to_another_device_does_not_take_it_along() -> None:
    granted = lease(["1"])
    assert [d.uuid for d in granted.leased(DEVICES)] == ["GPU-aaaa2222"]

    (found,) = granted.leased([DEVICES[0], device("GPU-bbbb3333", 1)])

    assert (found.uuid, found.total_mib) == ("GPU-aaaa2222", None)
    assert granted.group("GPU-bbbb3333") is None


def test_nothing_is_reported_before_all_devices_of_the_node_are_leased() -> None:
    granted = lease(["0", "1"])
    granted._phase = _Phase.PROBING

    reading = compose(Node("n1", info(), granted), agent_reading(), 1.0)

    assert (reading.devices, reading.unleased) == ((), 2)


def test_what_ray_has_and_no_reading_showed_is_not_known_yet() -> None:
    reading = compose(Node("n1", info(), lease(["0", "GPU-cccc"])), agent_reading(), 1.0)

    assert ([d.uuid for d in reading.devices], reading.unleased) == (["GPU-aaaa1111"], 1)


def test_before_its_agent_answers_a_node_is_what_ray_knows_of_it() -> None:
    reading = compose(Node("n1", info(), NodeLease("n1", 4)), None, 7.0)

    assert (reading.devices, reading.unleased, reading.requested_at) == ((), 4, 7.0)
    assert (reading.name, reading.cpus_milli, reading.memory_mib) == ("worker-7", 3500, 8192)
    assert (reading.driver_version, reading.simulated) == (None, False)


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
    assert (reading.requested_at, reading.unleased) == (12.5, 0)
    assert not reading.simulated


def test_closeness_is_that_of_the_leased_devices_in_their_order() -> None:
    pairs = (("GPU-aaaa1111", "GPU-aaaa2222", 10), ("GPU-aaaa1111", "GPU-bbbb3333", 400))
    known = replace(agent_reading(), closeness=pairs)

    assert compose(Node("n1", info(), lease(["2", "0"])), known, 1.0).closeness == ((0, 400), (400, 0))
    assert compose(Node("n1", info(), lease(["2", "1"])), known, 1.0).closeness == ()
    assert compose(Node("n1", info(), NodeLease("n1", 4)), None, 1.0).closeness == ()


def test_a_node_is_called_by_the_name_it_was_given() -> None:
    reading = compose(Node("n1", info(NodeName="big-one"), lease([])), agent_reading("/folder"), 1.0)

    assert reading.name == "big-one"
    assert reading.simulated


def test_without_rays_figures_the_hosts_count_and_no_cpus_are_given_out() -> None:
    reading = compose(Node("n1", info(Resources={}), lease([])), agent_reading(), 1.0)

    assert (reading.cpus_milli, reading.memory_mib) == (0, 16384)
