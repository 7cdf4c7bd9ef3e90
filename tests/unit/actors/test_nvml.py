"""What is read through NVML, and what becomes unknown."""

from __future__ import annotations

import os
import subprocess

import psutil
import pynvml
import pytest

from celeray.actors.nvml import MIG_PARENT, NvmlReader
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.model import DeviceProcess, DeviceReading, Health
from tests.fake_nvml import FakeDevice, allocate
from tests.unit.actors.conftest import MakeNvml


def read_one() -> DeviceReading:
    (device,) = NvmlReader().read()
    return device


def test_reads_everything_of_a_data_centre_card(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a", used_mib=100), FakeDevice("GPU-b", name="NVIDIA A10", total_mib=24576))

    reader = NvmlReader()
    first, second = reader.read()

    assert first == DeviceReading(
        uuid="GPU-a",
        index=0,
        name="NVIDIA A100-SXM4-40GB",
        total_mib=40960,
        used_mib=100,
        processes=(),
        health=Health.HEALTHY,
        utilization_pct=7,
        temperature_c=41,
        power_mw=61000,
    )
    assert (second.uuid, second.index, second.name) == ("GPU-b", 1, "NVIDIA A10")
    assert reader.driver_version == "550.54.15"


def test_what_a_consumer_card_does_not_support_is_unknown(make_nvml: MakeNvml) -> None:
    make_nvml(
        FakeDevice(
            "GPU-a",
            name="NVIDIA GeForce RTX 3080",
            ecc=None,
            remap_pending=None,
            recovery=None,
            mig_mode=None,
            utilization=None,
            temperature=None,
            power=None,
            compute_mode=None,
        )
    )

    device = read_one()

    assert device.health is Health.UNKNOWN
    assert device.utilization_pct is None
    assert device.temperature_c is None
    assert device.power_mw is None
    assert not device.exclusive_process
    assert device.total_mib == 40960


def test_the_drivers_reserve_is_not_counted_as_room(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a", total_mib=1000, reserved_mib=100, used_mib=50))

    device = read_one()

    assert (device.total_mib, device.used_mib) == (900, 50)


def test_an_old_driver_is_read_by_the_first_version_of_its_calls(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a", total_mib=1000, reserved_mib=100, used_mib=50), old_driver=True)

    device = read_one()

    assert (device.total_mib, device.used_mib) == (1000, 150)
    assert device.processes is None
    assert device.health is Health.HEALTHY


@pytest.mark.parametrize(
    ("function", "code", "memory"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_NO_PERMISSION, (None, None)),
        ("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, (40960, 0)),
        ("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_UNKNOWN, (None, None)),
    ],
)
def test_memory_that_cannot_be_read_is_unknown_and_never_zero(
    make_nvml: MakeNvml, function: str, code: int, memory: tuple[int | None, int | None]
) -> None:
    make_nvml(FakeDevice("GPU-a", errors={function: code}))

    device = read_one()

    assert (device.total_mib, device.used_mib) == memory
    assert not device.unified_memory


@pytest.mark.parametrize("total_mib", [None, 0])
def test_a_chip_that_shares_the_hosts_memory_shows_the_hosts(
    make_nvml: MakeNvml, total_mib: int | None
) -> None:
    make_nvml(FakeDevice("GPU-a", total_mib=total_mib))

    device = read_one()

    assert device.unified_memory
    assert device.total_mib == psutil.virtual_memory().total // 2**20
    assert device.used_mib is not None
    assert 0 < device.used_mib < device.total_mib


def test_processes_of_both_kinds_are_merged_by_pid(make_nvml: MakeNvml) -> None:
    pid, parent = os.getpid(), os.getppid()
    make_nvml(
        FakeDevice(
            "GPU-a",
            processes=[(pid, 300, "compute"), (pid, 300, "graphics"), (parent, None, "compute")],
        )
    )

    device = read_one()

    assert device.processes == tuple(
        sorted([DeviceProcess(pid, 300), DeviceProcess(parent, None)], key=lambda p: p.pid)
    )


def test_a_process_and_its_memory_go_with_it(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a"))
    reader = NvmlReader()
    with subprocess.Popen(["sleep", "60"]) as process:
        allocate("GPU-a", 500, pid=process.pid)
        (device,) = reader.read()
        assert device.used_mib == 500
        assert device.processes == (DeviceProcess(process.pid, 500),)
        process.kill()
    (device,) = reader.read()
    assert (device.used_mib, device.processes) == (0, ())


def test_a_mig_cards_slices_are_devices_and_the_card_is_not(make_nvml: MakeNvml) -> None:
    slices = [
        FakeDevice(f"MIG-{number}", name="NVIDIA A100 MIG 3g.20gb", total_mib=20096, recovery=None)
        for number in range(2)
    ]
    make_nvml(FakeDevice("GPU-a", mig_mode=1, recovery=1, slices=slices), FakeDevice("GPU-b"))

    card, first, second, other = NvmlReader().read()

    assert (card.uuid, card.health, card.health_reason) == ("GPU-a", Health.UNHEALTHY, MIG_PARENT)
    assert (first.uuid, first.index, first.total_mib) == ("MIG-0", 0, 20096)
    assert (second.uuid, second.index) == ("MIG-1", 1)
    assert first.health is Health.UNHEALTHY, "a slice has its card's health"
    assert (other.uuid, other.index, other.health) == ("GPU-b", 1, Health.HEALTHY)


def test_exclusive_process_mode_is_read(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a", compute_mode=pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS))

    assert read_one().exclusive_process


def test_a_lost_device_is_unhealthy_and_the_others_are_read(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a"), FakeDevice("GPU-b"))
    reader = NvmlReader()
    reader.read()
    fake.device("GPU-a").lost = 1
    fake.write()

    lost, other = reader.read()

    assert (lost.uuid, lost.index, lost.health) == ("GPU-a", 0, Health.UNHEALTHY)
    assert lost.total_mib is None
    assert lost.health_reason
    assert (other.uuid, other.health) == ("GPU-b", Health.HEALTHY)
    # A reader that never saw it has no name to report it by.
    assert [device.uuid for device in NvmlReader().read()] == ["GPU-b"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("recovery", 1, "reset the GPU"),
        ("recovery", 99, "action 99"),
        ("remap_pending", 1, "waits for a reset"),
        ("remap_failed", 1, "failed"),
        ("retired_pending", 1, "waits for a reboot"),
        ("ecc", 3, "3 uncorrected ECC errors"),
    ],
)
def test_bad_health_has_a_reason(make_nvml: MakeNvml, field: str, value: int, reason: str) -> None:
    device = FakeDevice("GPU-a")
    setattr(device, field, value)
    make_nvml(device)

    read = read_one()

    assert read.health is Health.UNHEALTHY
    assert read.health_reason is not None
    assert reason in read.health_reason


def test_a_driver_that_goes_is_opened_again_with_backoff(make_nvml: MakeNvml) -> None:
    clock = ManualClock()
    fake = make_nvml(FakeDevice("GPU-a"))
    reader = NvmlReader(clock)
    assert reader.read()

    fake.errors = {
        "nvmlDeviceGetCount_v2": pynvml.NVML_ERROR_UNINITIALIZED,
        "nvmlInitWithFlags": pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    }
    fake.write()
    assert reader.read() == ()
    clock.advance(1.0)
    assert reader.read() == (), "opening fails too; the next try comes after 2 s"
    fake.errors = {}
    fake.write()
    clock.advance(1.0)
    assert reader.read() == (), "too early"
    clock.advance(1.0)
    assert len(reader.read()) == 1
    reader.close()
    reader.close()


def test_an_unexpected_error_of_init_is_taken_for_no_driver(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a"), errors={"nvmlInitWithFlags": pynvml.NVML_ERROR_NO_PERMISSION})

    assert NvmlReader().read() == ()
