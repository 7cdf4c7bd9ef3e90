"""The node agent without Ray: what it reads, and which processes it touches."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from celeray.actors import processes
from celeray.actors.node_agent import NodeAgent, agent_name
from celeray.actors.processes import ProcessId, is_alive, this_process
from celeray.scheduler.endings import host_memory
from celeray.scheduler.errors import ConfigurationError
from tests.fake_nvml import FakeDevice
from tests.unit.actors.conftest import MakeNvml

NODE = "f" * 56


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CELERAY_SIMULATE_GPUS", raising=False)
    monkeypatch.delenv("CELERAY_PIDS_VISIBLE", raising=False)


def test_reads_real_devices_and_the_host(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a"))

    reading = NodeAgent(NODE).read()

    assert [device.uuid for device in reading.devices] == ["GPU-a"]
    assert reading.driver_version == "550.54.15"
    assert reading.holds_folder is None
    assert reading.cpus == os.cpu_count()
    assert reading.memory_mib == psutil.virtual_memory().total // 2**20
    assert reading.hostname


def test_simulated_devices_come_from_the_argument_then_from_the_raylets_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERAY_SIMULATE_GPUS", "1x8GiB")

    assert [d.name for d in NodeAgent(NODE).read().devices] == ["SIM-8GiB"]
    reading = NodeAgent(NODE, "2x24GiB").read()
    assert [d.name for d in reading.devices] == ["SIM-24GiB", "SIM-24GiB"]
    assert reading.pids_visible
    assert reading.holds_folder is not None
    assert Path(reading.holds_folder).is_dir()


def test_a_bad_specification_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="elephants"):
        NodeAgent(NODE, "12 elephants")


@pytest.mark.parametrize(("forced", "seen"), [("1", True), ("0", False)])
def test_visibility_of_pids_can_be_forced(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch, forced: str, seen: bool
) -> None:
    make_nvml()
    monkeypatch.setenv("CELERAY_PIDS_VISIBLE", forced)

    assert NodeAgent(NODE).read().pids_visible is seen


def test_pids_are_visible_in_the_hosts_namespace_only(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_nvml()
    own = os.readlink("/proc/self/ns/pid")

    monkeypatch.setattr(processes, "INITIAL_PID_NAMESPACE", own)
    assert NodeAgent(NODE).read().pids_visible
    monkeypatch.setattr(processes, "INITIAL_PID_NAMESPACE", "pid:[1]")
    assert not NodeAgent(NODE).read().pids_visible


def test_only_siblings_are_signalled_and_the_dead_are_told(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_nvml()
    agent = NodeAgent(NODE)
    with subprocess.Popen(["sleep", "60"]) as child:
        process = ProcessId(child.pid, psutil.Process(child.pid).create_time())
        assert agent.is_alive(process)
        assert not agent.signal(process, signal.SIGKILL), "a child of the agent is no executor"
        monkeypatch.setattr("os.getppid", os.getpid)
        assert not agent.signal(ProcessId(child.pid, process.created - 100), signal.SIGKILL), "another life"
        assert agent.signal(process, signal.SIGKILL)
    assert not agent.is_alive(process)
    assert not agent.signal(process, signal.SIGKILL)


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    process = ProcessId(child.pid, psutil.Process(child.pid).create_time())
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(process)
    child.wait()
    assert is_alive(this_process())


def test_the_name_tells_version_and_node() -> None:
    assert agent_name("abc").startswith("celeray-node-agent-")
    assert agent_name("abc").endswith("-abc")


def test_a_process_is_read_with_who_started_it_where_its_pid_can_be_seen(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "300"]) as child:
        try:
            make_nvml(FakeDevice("GPU-a", processes=[(child.pid, 100, "compute")]))
            for visible, parents in (("1", os.getpid()), ("0", None)):
                monkeypatch.setenv("CELERAY_PIDS_VISIBLE", visible)
                (process,) = NodeAgent(NODE).read().devices[0].processes or ()
                assert process.pid == child.pid
                assert next(iter(process.parents), None) == parents
        finally:
            child.kill()


def test_a_kill_by_the_kernel_answers_for_one_death(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_nvml()
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 3\n")
    monkeypatch.setattr(host_memory, "_paths", lambda: iter([events]))
    agent = NodeAgent(NODE)
    assert not agent.was_out_of_memory()

    events.write_text("oom_kill 4\n")
    agent.read()

    assert agent.was_out_of_memory()
    assert not agent.was_out_of_memory()
