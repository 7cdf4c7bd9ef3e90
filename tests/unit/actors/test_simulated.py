"""Simulated devices: their specification, and what processes hold of them."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from celeray.actors import simulated
from celeray.actors.simulated import SimulatedDevices, holds_folder, parse_spec
from celeray.scheduler.errors import ConfigurationError, OutOfGpuMemoryError
from celeray.scheduler.model import DeviceProcess, Health

NODE = "0123456789abcdef"
FIRST, SECOND = "GPU-sim-01234567-0", "GPU-sim-01234567-1"


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedDevices:
    """Two devices, both this process's own."""
    for variable in (simulated.HOLDS_VARIABLE, simulated.DEVICES_VARIABLE):
        monkeypatch.setenv(variable, "")
    found = SimulatedDevices("2x24GiB", NODE, tmp_path)
    simulated.register(str(tmp_path), (FIRST, SECOND))
    return found


def test_a_specification_names_each_device() -> None:
    assert parse_spec("2x24GiB, 1x80GiB,512MiB") == (
        ("SIM-24GiB", 24576),
        ("SIM-24GiB", 24576),
        ("SIM-80GiB", 81920),
        ("SIM-512MiB", 512),
    )


@pytest.mark.parametrize("part", ["2x24", "2x24GB", "0x24GiB", "1x0GiB", "-1x24GiB", "", "12 elephants"])
def test_a_part_that_cannot_be_read_is_named(part: str) -> None:
    with pytest.raises(ConfigurationError, match="simulate_gpus") as error:
        parse_spec(f"1x8GiB,{part}")
    assert repr(part) in str(error.value)


def test_devices_read_like_real_ones(devices: SimulatedDevices) -> None:
    first, second = devices.read()

    assert (first.uuid, first.index, first.name, first.total_mib) == (FIRST, 0, "SIM-24GiB", 24576)
    assert (second.uuid, second.index) == (SECOND, 1)
    assert (first.used_mib, first.processes, first.health) == (0, (), Health.HEALTHY)


def test_what_a_process_holds_is_used_until_it_changes(devices: SimulatedDevices) -> None:
    simulated.hold(1000)
    assert [device.used_mib for device in devices.read()] == [1000, 1000]
    assert devices.read()[0].processes == (DeviceProcess(os.getpid(), 1000),)

    simulated.hold(300, [SECOND])
    assert [device.used_mib for device in devices.read()] == [1000, 300]

    simulated.hold(0)
    simulated.hold(0)
    assert [device.used_mib for device in devices.read()] == [0, 0]


def test_the_hold_of_a_dead_process_is_dropped(devices: SimulatedDevices, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        created = psutil.Process(process.pid).create_time()
        path = tmp_path / f"{process.pid}@{FIRST}"
        path.write_text(f"{created} 700")
        assert devices.read()[0].used_mib == 700
        process.kill()
    assert devices.read()[0].used_mib == 0
    assert not path.exists()


def test_a_pid_that_was_given_out_again_holds_nothing(devices: SimulatedDevices, tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}@{FIRST}").write_text("1000.0 700")

    assert devices.read()[0].used_mib == 0


def test_holding_nothing_in_a_process_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(simulated.HOLDS_VARIABLE, raising=False)

    simulated.hold(1000)


def test_a_process_runs_out_at_its_reservation_where_it_is_kept_within(
    devices: SimulatedDevices, tmp_path: Path
) -> None:
    simulated.register(str(tmp_path), (FIRST, SECOND), 1000)
    simulated.hold(1000)
    with pytest.raises(
        OutOfGpuMemoryError, match="1001 MiB wanted on each simulated device, 1000 MiB reserved"
    ):
        simulated.hold(1001)
    assert [device.used_mib for device in devices.read()] == [1000, 1000], "it holds what it held"


def test_a_process_runs_out_where_others_hold_the_device(devices: SimulatedDevices, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        created = psutil.Process(process.pid).create_time()
        (tmp_path / f"{process.pid}@{SECOND}").write_text(f"{created} 20000")
        simulated.hold(4576)
        with pytest.raises(
            OutOfGpuMemoryError, match=f"4577 MiB wanted on simulated device {SECOND}, 4576 MiB left"
        ):
            simulated.hold(4577)
        simulated.hold(24576, [FIRST])
        simulated.hold_reserved(24576)
        assert [device.used_mib for device in devices.read()] == [24576, 44576], (
            "whatever others hold in excess"
        )
        process.kill()


def test_a_negative_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        simulated.hold(-1)


def test_the_folder_of_holds_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = tmp_path / f"celeray-{os.getuid()}"
    old.mkdir(mode=0o755)

    made = SimulatedDevices("1x1GiB", NODE).folder

    assert made.parent == old
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, made)] == [0o700, 0o700]
    assert SimulatedDevices("1x1GiB", NODE).folder == made


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "holds"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(ConfigurationError, match=f"holds: owner {os.getuid()}, mode {mode:04o}"):
        SimulatedDevices("1x1GiB", NODE, folder)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "holds").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigurationError, match="something else"):
        SimulatedDevices("1x1GiB", NODE, tmp_path / "holds")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to another user")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "holds"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)

    with pytest.raises(ConfigurationError, match="owner 12345"):
        SimulatedDevices("1x1GiB", NODE, folder)


def test_each_node_has_a_folder_of_its_own() -> None:
    assert holds_folder("a") != holds_folder("b")
