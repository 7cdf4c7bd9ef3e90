"""Canaries: on which devices, how often, what passing and failing change, and the process itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celeray.actors import canaries
from celeray.actors.canaries import PASSES_MAX, Canaries, run_canary
from celeray.actors.canary import check
from celeray.actors.node_agent import NodeAgent
from celeray.actors.nvml import NvmlReader
from celeray.actors.xids import XidWatch
from celeray.scheduler.model import DeviceReading, Health
from tests.fake_nvml import FakeDevice, FakeNvml
from tests.unit.actors.conftest import MakeNvml

EVERY_S = 60.0
UUID = "GPU-a"


class Rig:
    """Canaries whose outcome and clock the test decides."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.time = 0.0
        self.ran: list[str] = []
        self.failure: str | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self.xids = XidWatch(self._tick)
        self.canaries = Canaries(self.xids, self._run, lambda: self.now)
        self.canaries.set_interval(EVERY_S)

    def _tick(self) -> float:
        self.time += 1.0
        return self.time

    def _run(self, uuid: str) -> str | None:
        self.ran.append(uuid)
        self.meanwhile()
        return self.failure

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.canaries.run_once()

    def remedy(self) -> str | None:
        (device,) = self.canaries.remedies(self.xids.mark((DeviceReading(UUID, 0, "A100", 1, 0, ()),)))
        return device.remedy


def test_a_canary_that_passes_takes_the_device_back() -> None:
    rig = Rig()
    rig.xids.note(UUID, 94)
    assert rig.remedy() == "a canary, every 60 s"
    rig.pass_by(0.0)
    assert rig.ran == [UUID]
    assert rig.xids.marks() == {}
    assert rig.remedy() is None
    rig.pass_by(EVERY_S)
    assert rig.ran == [UUID]


def test_one_that_fails_says_why_and_is_tried_again_after_the_interval() -> None:
    rig = Rig()
    rig.failure = "the driver asks to reset the GPU"
    rig.xids.note(UUID, 94)
    rig.pass_by(0.0)
    rig.pass_by(EVERY_S - 1)
    assert rig.ran == [UUID]
    assert rig.remedy() == "a canary, every 60 s; the last one failed: the driver asks to reset the GPU"
    rig.failure = None
    rig.pass_by(1.0)
    assert rig.xids.marks() == {}


@pytest.mark.parametrize("xid", [48, 79, 95])
def test_what_needs_a_reset_gets_none(xid: int) -> None:
    rig = Rig()
    rig.xids.note(UUID, 94)
    rig.xids.note(UUID, xid)
    rig.pass_by(EVERY_S)
    assert rig.ran == []
    assert str(rig.remedy()).endswith("`celeray undrain device UUID`")


def test_an_error_that_comes_while_it_runs_is_not_forgiven() -> None:
    rig = Rig()
    rig.xids.note(UUID, 94)
    rig.meanwhile = lambda: rig.xids.note(UUID, 94)
    rig.pass_by(0.0)
    assert UUID in rig.xids.marks()


def test_a_device_that_fails_again_and_again_is_left_to_an_operator() -> None:
    rig = Rig()
    for _ in range(PASSES_MAX + 2):
        rig.xids.note(UUID, 94)
        rig.pass_by(EVERY_S)
    assert len(rig.ran) == PASSES_MAX
    assert f"{PASSES_MAX} canaries took it back" in str(rig.remedy())
    rig.canaries.forgiven(UUID)
    rig.pass_by(EVERY_S)
    assert len(rig.ran) == PASSES_MAX + 1


def test_an_interval_of_zero_means_none() -> None:
    rig = Rig()
    rig.canaries.set_interval(0.0)
    rig.xids.note(UUID, 94)
    rig.pass_by(EVERY_S)
    assert rig.ran == []
    assert "switched off" in str(rig.remedy())


def environment(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml) -> None:
    for name, value in fake.environment().items():
        monkeypatch.setenv(name, value)


def test_the_process_passes_on_a_good_device_and_names_what_is_wrong_with_a_bad_one(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = make_nvml(FakeDevice(UUID), FakeDevice("GPU-b", ecc=3), FakeDevice("GPU-c", lost=1))
    environment(monkeypatch, fake)
    assert run_canary(UUID) is None
    assert run_canary("GPU-b") == "3 uncorrected ECC errors since the driver was loaded"
    assert str(run_canary("GPU-c")).startswith("NVML: ")
    assert run_canary("GPU-z") == "NVML does not find the device"


def test_a_process_that_hangs_or_dies_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging, dying = tmp_path / "hanging", tmp_path / "dying"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    for script in (hanging, dying):
        script.chmod(0o700)
    monkeypatch.setattr(canaries, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(sys, "executable", str(hanging))
    assert run_canary(UUID) == "no answer within 0 s"
    monkeypatch.setattr(canaries, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(sys, "executable", str(dying))
    assert run_canary(UUID) == "exit code -9"
    dying.write_text("#!/bin/sh\nexit 0\n")
    assert run_canary(UUID) == "exit code 0", "it did not say that it passed"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert str(run_canary(UUID)).startswith("it can't be started: ")


TORCH = """
class Tensor:
    def __init__(self, total): self._total = total
    def __matmul__(self, other): return self
    def sum(self): return self
    def item(self): return self._total
class version: cuda = "12.4"
class cuda:
    @staticmethod
    def is_available(): return AVAILABLE
def ones(shape, device):
    import os
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a" and device == "cuda"
    return Tensor(TOTAL)
"""


@pytest.mark.parametrize(
    ("available", "total", "expected"),
    [
        (True, 512.0**3, None),
        (True, 512.0**3 + 1, f"computed {512.0**3 + 1!r} instead of {512**3}"),
        (False, 0.0, "torch finds no CUDA device"),
    ],
)
def test_where_torch_is_there_it_computes(
    make_nvml: MakeNvml,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    available: bool,
    total: float,
    expected: str | None,
) -> None:
    make_nvml(FakeDevice(UUID))
    (tmp_path / "torch.py").write_text(f"AVAILABLE, TOTAL = {available}, {total!r}\n{TORCH}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert check(UUID) == expected
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_a_card_with_slices_is_only_asked(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_nvml(FakeDevice(UUID, mig_mode=1))
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert check(UUID) is None


def test_an_agent_shows_the_remedy_and_obeys_an_operator(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERAY_SIMULATE_GPUS", raising=False)
    make_nvml(FakeDevice(UUID))
    agent = NodeAgent("n1")
    agent._xids.note(UUID, 79)
    (device,) = agent.read(EVERY_S).devices
    assert device.health is Health.UNHEALTHY
    assert device.marked_at is not None
    assert str(device.remedy).startswith("reset the GPU or restart the node")
    assert not agent.forgive(UUID, device.marked_at - 1.0)
    assert agent.forgive(UUID, device.marked_at)
    (device,) = agent.read(EVERY_S).devices
    assert (device.health, device.remedy) == (Health.HEALTHY, None)


def test_a_lost_device_is_told_apart_from_one_that_is_only_unhealthy(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice(UUID), FakeDevice("GPU-b", ecc=1))
    reader = NvmlReader()
    assert [device.lost for device in reader.read()] == [False, False]
    fake.change(UUID, lost=1)
    assert [(device.lost, device.health) for device in reader.read()] == [
        (True, Health.UNHEALTHY),
        (False, Health.UNHEALTHY),
    ]
