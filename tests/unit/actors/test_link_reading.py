"""How close devices are, read through NVML."""

from __future__ import annotations

import logging

import pynvml
import pytest

from celeray.actors.link_reading import AGAIN_S
from celeray.actors.node_agent import NodeAgent
from celeray.actors.nvml import NvmlReader
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.links import Pairs
from tests.fake_nvml import FakeDevice
from tests.unit.actors.conftest import MakeNvml


def read() -> Pairs:
    reader = NvmlReader()
    assert reader.read()
    return reader.closeness


@pytest.mark.parametrize(
    ("level", "closeness"),
    [
        (pynvml.NVML_TOPOLOGY_INTERNAL, 60),
        (pynvml.NVML_TOPOLOGY_SINGLE, 50),
        (pynvml.NVML_TOPOLOGY_MULTIPLE, 40),
        (pynvml.NVML_TOPOLOGY_HOSTBRIDGE, 30),
        (pynvml.NVML_TOPOLOGY_NODE, 20),
        (pynvml.NVML_TOPOLOGY_SYSTEM, 10),
    ],
)
def test_pcie_by_the_common_ancestor(make_nvml: MakeNvml, level: int, closeness: int) -> None:
    make_nvml(FakeDevice("GPU-a", pcie={"GPU-b": level}), FakeDevice("GPU-b"))

    assert read() == (("GPU-a", "GPU-b", closeness),)


def test_active_links_to_each_other_are_counted_and_count_more_than_pcie(make_nvml: MakeNvml) -> None:
    make_nvml(
        FakeDevice("GPU-a", pcie={"GPU-b": 10, "GPU-c": 50}, links=["GPU-b", "GPU-b", "off", "GPU-c"]),
        FakeDevice("GPU-b", pcie={"GPU-c": 50}, links=["GPU-a", "GPU-a"]),
        FakeDevice("GPU-c", links=["GPU-a"]),
    )

    assert read() == (("GPU-a", "GPU-b", 200), ("GPU-a", "GPU-c", 100), ("GPU-b", "GPU-c", 10))


def test_devices_on_nvswitches_are_equally_close(make_nvml: MakeNvml) -> None:
    uuids = ["GPU-a", "GPU-b", "GPU-c"]
    make_nvml(*(FakeDevice(uuid, links=["switch"] * 12) for uuid in uuids[:2]), FakeDevice("GPU-c"))
    assert read() == (("GPU-a", "GPU-b", 1200),)

    make_nvml(
        *(FakeDevice(uuid, links=["switch"] * 12) for uuid in uuids[:2]),
        FakeDevice("GPU-c", links=["switch"] * 9),
    )
    assert read() == (("GPU-a", "GPU-b", 1200), ("GPU-a", "GPU-c", 900), ("GPU-b", "GPU-c", 900))


def test_one_end_that_can_tell_of_its_links_is_enough(make_nvml: MakeNvml) -> None:
    no = {"nvmlDeviceGetNvLinkState": pynvml.NVML_ERROR_NO_PERMISSION}
    make_nvml(FakeDevice("GPU-a", errors=no), FakeDevice("GPU-b", links=["GPU-a", "GPU-a"]))

    assert read() == (("GPU-a", "GPU-b", 200),)


def test_what_nvml_does_not_tell_is_not_known_and_nothing_is_said_of_it(
    make_nvml: MakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    make_nvml(
        FakeDevice("GPU-a", links=["off"]), FakeDevice("GPU-b", pcie={"GPU-c": 10}), FakeDevice("GPU-c")
    )

    with caplog.at_level(logging.WARNING):
        assert read() == (("GPU-b", "GPU-c", 50),)

    assert not caplog.records, "link numbers that a card does not have are no failure"


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_no_failing_call_is_an_error(make_nvml: MakeNvml, code: int) -> None:
    functions = (
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetNvLinkRemoteDeviceType",
        "nvmlDeviceGetNvLinkRemotePciInfo_v2",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetTopologyCommonAncestor",
    )
    devices = FakeDevice("GPU-a", pcie={"GPU-b": 10}, links=["GPU-b"]), FakeDevice("GPU-b", links=["GPU-a"])
    make_nvml(*devices, errors=dict.fromkeys(functions, code))

    assert read() == ()


def test_an_old_driver_tells_of_links_between_cards_only(make_nvml: MakeNvml) -> None:
    make_nvml(
        FakeDevice("GPU-a", links=["GPU-b", "switch"]), FakeDevice("GPU-b", links=["switch"]), old_driver=True
    )

    assert read() == (("GPU-a", "GPU-b", 100),)


def test_slices_of_one_card_are_on_one_board_and_have_no_links(make_nvml: MakeNvml) -> None:
    slices = [FakeDevice(f"MIG-{number}") for number in range(2)]
    make_nvml(
        FakeDevice("GPU-a", mig_mode=1, slices=slices, links=["GPU-b"], pcie={"GPU-b": 40}),
        FakeDevice("GPU-b", links=["GPU-a"]),
    )

    assert read() == (("MIG-0", "MIG-1", 60), ("MIG-0", "GPU-b", 20), ("MIG-1", "GPU-b", 20))


def test_it_is_read_again_when_the_devices_are_others_and_after_a_while(make_nvml: MakeNvml) -> None:
    clock = ManualClock()
    fake = make_nvml(FakeDevice("GPU-a", links=["GPU-b"]), FakeDevice("GPU-b", links=["GPU-a"]))
    reader = NvmlReader(clock)
    reader.read()
    first = reader.closeness

    for device in fake.devices:
        device.links = ["off"]
        device.pcie = {"GPU-b": 30}
    fake.write()
    reader.read()
    assert reader.closeness == first == (("GPU-a", "GPU-b", 100),)

    clock.advance(AGAIN_S)
    reader.read()
    assert reader.closeness == (("GPU-a", "GPU-b", 30),), "the link went down"

    fake.devices = [*fake.devices, FakeDevice("GPU-c", pcie={"GPU-a": 10})]
    fake.write()
    reader.read()
    assert reader.closeness == (("GPU-a", "GPU-b", 30), ("GPU-a", "GPU-c", 50))


def test_a_device_that_is_lost_is_close_to_none_until_it_is_back(make_nvml: MakeNvml) -> None:
    fake = make_nvml(
        *(FakeDevice(uuid, pcie={"GPU-a": 10, "GPU-b": 10}) for uuid in ("GPU-a", "GPU-b", "GPU-c"))
    )
    reader = NvmlReader()
    reader.read()
    whole = reader.closeness
    assert len(whole) == 3

    fake.change("GPU-c", lost=1)
    reader.read()
    assert reader.closeness == (("GPU-a", "GPU-b", 50),)

    fake.change("GPU-c", lost=0)
    reader.read()
    assert reader.closeness == whole


def test_a_device_that_is_lost_meanwhile_leaves_all_unknown_until_the_next_read(make_nvml: MakeNvml) -> None:
    lost = {"nvmlDeviceGetTopologyCommonAncestor": pynvml.NVML_ERROR_GPU_IS_LOST}
    fake = make_nvml(FakeDevice("GPU-a", pcie={"GPU-b": 10}, errors=lost), FakeDevice("GPU-b"))
    reader = NvmlReader()

    assert len(reader.read()) == 2
    assert reader.closeness == ()
    fake.device("GPU-a").errors = {}
    fake.write()
    reader.read()
    assert reader.closeness == (("GPU-a", "GPU-b", 50),)


def test_the_node_agent_reports_it(make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERAY_SIMULATE_GPUS", raising=False)
    make_nvml(FakeDevice("GPU-a", links=["GPU-b"] * 4), FakeDevice("GPU-b", links=["GPU-a"] * 4))

    assert NodeAgent("f" * 56).read().closeness == (("GPU-a", "GPU-b", 400),)
    assert NodeAgent("f" * 56, "2x24GiB").read().closeness == ()
