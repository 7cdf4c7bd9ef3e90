"""What an executor uses of its devices: by pid with its children, by reservation, and on simulated devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeray.actors import simulated
from celeray.actors.meters import NvmlMeter, SimulatedMeter, open_meter
from celeray.actors.simulated import SimulatedDevices
from celeray.scheduler.errors import OutOfGpuMemoryError
from celeray.scheduler.model import Attribution
from tests.fake_nvml import FakeDevice, allocate
from tests.unit.actors.conftest import MakeNvml

A, B = "GPU-a", "GPU-b"
FOREIGN = os.getppid()
NODE = "0123456789abcdef"


@pytest.fixture
def grandchild() -> Iterator[int]:
    """Pid of a process that a child of this one started."""
    code = (
        "import subprocess, sys\n"
        "with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=sys.stdin) as own:\n"
        "    print(own.pid, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())
        child.communicate("\n")


def test_by_pid_it_is_the_process_and_what_it_started(make_nvml: MakeNvml, grandchild: int) -> None:
    make_nvml(FakeDevice(A), FakeDevice(B))
    meter = NvmlMeter((B, A), by_pid=True)
    meter.begin()
    assert meter.used() == (0, 0)
    allocate(A, 3000)
    allocate(B, 100, pid=grandchild)
    allocate(A, 500, pid=grandchild)
    allocate(A, 7000, pid=FOREIGN)
    assert meter.used() == (100, 3500)
    assert meter.attribution is Attribution.PID
    assert meter.most() == (None, None)


def test_a_process_whose_use_is_not_told_makes_the_device_unknown(make_nvml: MakeNvml) -> None:
    make_nvml(
        FakeDevice(A, processes=[(os.getpid(), None, "compute")]),
        FakeDevice(B, processes=[(FOREIGN, None, "compute"), (os.getpid(), 5, "compute")]),
    )
    assert NvmlMeter((A, B), by_pid=True).used() == (None, 5)


def test_by_reservation_it_is_what_came_after_the_beginning(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice(A, used_mib=900), FakeDevice(B))
    meter = NvmlMeter((A, B), by_pid=False)
    assert meter.used() == (0, 0)
    allocate(A, 4000)
    assert meter.used() == (4000, 0)
    fake.device(A).used_mib = 100
    fake.write()
    assert meter.used() == (0, 0), "never below nothing"
    assert meter.attribution is Attribution.RESERVATION


def test_the_hosts_memory_tells_nothing(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice(A, total_mib=None))
    assert NvmlMeter((A,), by_pid=False).used() == (None,)


def test_a_lost_device_tells_nothing_and_stops_nobody(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice(A))
    meter = NvmlMeter((A,), by_pid=True)
    fake.device(A).lost = 1
    fake.write()
    assert meter.used() == (None,)


def test_without_a_driver_there_is_no_meter(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_nvml(FakeDevice(A), errors={"nvmlInitWithFlags": 9})
    assert open_meter((A,), None) is None
    assert "what this executor uses of its devices is not known" in caplog.text


def test_pids_decide_how_it_is_told(make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    make_nvml(FakeDevice(A))
    for forced, expected in (("1", Attribution.PID), ("0", Attribution.RESERVATION)):
        monkeypatch.setenv("CELERAY_PIDS_VISIBLE", forced)
        meter = open_meter((A,), None)
        assert meter is not None
        assert meter.attribution is expected


@pytest.fixture
def simulated_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedMeter:
    """Of a process with two simulated devices of 24 GiB, 8 GiB of each reserved."""
    for variable in (simulated.HOLDS_VARIABLE, simulated.DEVICES_VARIABLE, simulated.MOST_VARIABLE):
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(simulated, "said", {})
    monkeypatch.setattr(simulated, "said_most", {})
    devices = SimulatedDevices("2x24GiB", NODE, tmp_path)
    uuids = tuple(device.uuid for device in devices.devices)
    simulated.register(str(tmp_path), uuids, 8192)
    simulated.hold_reserved(8192)
    meter = open_meter(uuids, str(tmp_path))
    assert isinstance(meter, SimulatedMeter)
    return meter


def test_a_reservation_is_no_observation(simulated_meter: SimulatedMeter) -> None:
    simulated_meter.begin()
    assert simulated_meter.used() == simulated_meter.most() == (None, None)


def test_what_a_task_says_counts_with_its_most_in_each_run(simulated_meter: SimulatedMeter) -> None:
    simulated_meter.begin()
    simulated.hold(5000)
    simulated.hold(2000)
    assert simulated_meter.used() == (2000, 2000)
    assert simulated_meter.most() == (5000, 5000)
    simulated_meter.begin()
    assert simulated_meter.most() == (2000, 2000), "what it still holds"
    with pytest.raises(OutOfGpuMemoryError):
        simulated.hold(9000)
    assert simulated_meter.most() == (2000, 2000), "what it did not get"


def test_what_children_say_counts_as_well(simulated_meter: SimulatedMeter) -> None:
    simulated_meter.begin()
    simulated.hold(1000)
    code = "from celeray.actors.simulated import hold\nhold(3000)\nprint(flush=True)\ninput()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert simulated_meter.used() == (4000, 4000)
        child.communicate("\n")
