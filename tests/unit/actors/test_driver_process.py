"""The pipe to the driver's process: in order, never blocking the caller, and quiet when the child is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeray.actors import channel
from celeray.actors.channel import DriverConfig, Run, Stop
from celeray.actors.driver_process import DriverProcess, redirect_target
from celeray.scheduler.cluster import RunSpec
from tests.unit.actors.core_process import ROOT

MIB = 1024 * 1024


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe: the child reads nothing before `open_gate`."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture
def driver(gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DriverProcess]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = DriverConfig("b1", ray_address=str(gate), simulate_gpus=None, reading_interval_s=1.0)
    log = redirect_target(tmp_path / "logs" / "driver.log")
    driver = DriverProcess(config, log, module="tests.unit.actors.echo_driver")
    assert driver.receive() == ("b1",)
    yield driver
    driver.close(0)


def open_gate(gate: Path) -> None:
    with open(gate, "wb"):
        pass


def run(run_id: int, size: int) -> Run:
    return Run("e1", channel.encode([RunSpec(run_id, "t", b"x" * size)]))


def test_commands_wait_in_order_while_the_child_does_not_read(driver: DriverProcess, gate: Path) -> None:
    sizes = [10, 3 * MIB, 20, 9 * MIB, 30]
    for run_id, size in enumerate(sizes):
        driver.put(run(run_id, size))

    open_gate(gate)

    assert [driver.receive() for _ in sizes] == list(enumerate(sizes))
    driver.put(run(9, 1))
    assert driver.receive() == (9, 1)
    driver.put(Stop(1.0))
    with pytest.raises(EOFError):
        driver.receive()
    assert driver.close(30) == 7


def test_a_dead_child_takes_commands_in_silence(driver: DriverProcess) -> None:
    driver.put(run(1, 20 * MIB))
    os.kill(driver.pid, signal.SIGKILL)

    # One that waited in the pipe's buffer is cut off in the middle.
    with pytest.raises((EOFError, OSError)):
        driver.receive()
    assert driver.close(30) == -signal.SIGKILL
    driver.put(run(2, 10))


def test_a_child_that_does_not_end_is_killed(driver: DriverProcess, tmp_path: Path) -> None:
    driver.put(Stop(1.0))

    assert driver.close(0) == -signal.SIGKILL
    assert (tmp_path / "logs" / "driver.log").read_text() == ""


def test_without_a_log_file_output_is_inherited() -> None:
    assert redirect_target(None) is None
