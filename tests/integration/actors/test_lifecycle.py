"""The life of a `RayCluster`: a driver that dies, a cluster that is not there, two bridges, agents that stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from celeray.actors.cluster import RayCluster
from celeray.scheduler.cluster import ClusterDown, ClusterUp, EndCause, NodeRead
from celeray.scheduler.settings import Settings
from tests.fake_nvml import FakeDevice
from tests.integration.actors.live import LiveCluster, live_cluster, until
from tests.integration.conftest import AddedNode, RayTestCluster


@pytest.mark.slow
def test_a_driver_that_was_killed_is_replaced_and_leases_the_devices_again(
    ray_cluster: RayTestCluster, tmp_path: Path
) -> None:
    uuid = "GPU-dddddddd-0000-0000-0000-000000000004"
    node = ray_cluster.add_node([FakeDevice(uuid)])
    with live_cluster(ray_cluster.address, tmp_path / "driver.log", reading_interval_s=0.25) as live:
        live.reading(node.node_id, lambda reading: len(reading.devices) == 1)
        spec = live.spec(node.node_id, uuid)
        pid = live.start(spec).pid
        agent = _agent_pid(node)
        place = len(live.events)

        assert live.cluster.driver_pid is not None
        os.kill(live.cluster.driver_pid, signal.SIGKILL)

        down = live.wait(ClusterDown, after=place)
        assert "exit code -9" in down.detail
        live.wait(ClusterUp, after=place)
        until(lambda: not psutil.pid_exists(pid), "the executor ends with its bridge's driver")
        place = len(live.events)
        live.wait(NodeRead, lambda e: [d.uuid for d in e.reading.devices] == [uuid], place)
        again = live.spec(node.node_id, uuid, share=1.0)
        live.start(again)
        assert live.run(again, "simple.add", 1, 2)[1] == "3"
        assert _agent_pid(node) == agent, "the agent outlives the driver and is found again"
    ray_cluster.remove_node(node)


def _agent_pid(node: AddedNode) -> int:
    """Process of the node's agent: a child of its raylet, by the title that Ray gives to actors."""
    raylet = psutil.Process(node.ray_node.all_processes["raylet"][0].process.pid)
    (agent,) = [child.pid for child in raylet.children() if "ray::NodeAgent" in " ".join(child.cmdline())]
    return agent


@pytest.mark.slow
def test_two_bridges_never_share_a_device_and_the_second_takes_over(
    ray_cluster: RayTestCluster, tmp_path: Path
) -> None:
    uuids = [f"GPU-eeeeeeee-0000-0000-0000-00000000000{number}" for number in range(2)]
    node = ray_cluster.add_node([FakeDevice(uuid) for uuid in uuids])

    def holds(live: LiveCluster) -> bool:
        return any(
            isinstance(e, NodeRead) and e.reading.node_id == node.node_id and e.reading.devices
            for e in live.events
        )

    with live_cluster(ray_cluster.address, tmp_path / "second.log", reading_interval_s=0.25) as second:
        with live_cluster(ray_cluster.address, tmp_path / "first.log", reading_interval_s=0.25) as first:
            until(lambda: holds(first) or holds(second), "one bridge has the node")
            assert not (holds(first) and holds(second))
            owner, other = (first, second) if holds(first) else (second, first)
            place = len(owner.events)
            for _ in range(3):
                assert (
                    len(owner.wait(NodeRead, lambda e: bool(e.reading.devices), place).reading.devices) == 2
                )
                place = len(owner.events)
            assert not holds(other)
            left = other.reading(node.node_id)
            assert (left.devices, left.unleased) == ((), 2), "they are there, and may become free"
        if owner is first:
            second.reading(node.node_id, lambda reading: len(reading.devices) == 2)
    ray_cluster.remove_node(node)


@pytest.mark.usefixtures("ray_environment")
def test_a_cluster_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    cluster = RayCluster(Settings(ray_address="127.0.0.1:1"), "b", log_file=tmp_path / "driver.log")
    live = LiveCluster(cluster)
    cluster.start(live.listen)

    live.wait(ClusterDown)
    live.wait(ClusterDown, after=1)
    # Nobody is there to obey.
    cluster.start_executor(live.spec("node"))
    cluster.stop(5)
    cluster.stop(5)
    assert not [event for event in live.events if isinstance(event, ClusterUp)]


@pytest.mark.usefixtures("ray_environment")
def test_a_local_ray_with_simulated_devices_lives_and_dies_with_its_bridge(tmp_path: Path) -> None:
    with live_cluster(
        None, tmp_path / "driver.log", simulate_gpus="1x24GiB,1x80GiB", reading_interval_s=0.25
    ) as live:
        place = len(live.events)
        reading = live.wait(NodeRead, lambda e: len(e.reading.devices) == 2, place).reading
        assert reading.simulated
        assert [(d.name, d.total_mib) for d in reading.devices] == [
            ("SIM-24GiB", 24576),
            ("SIM-80GiB", 81920),
        ]
        spec = live.spec(reading.node_id, reading.devices[1].uuid, memory_mib=5000, cpus=2)
        live.start(spec)
        # The first task holds the reservation, as a model that it loads would.
        live.run(spec, "simple.noop")
        live.reading(reading.node_id, lambda r: r.devices[1].used_mib == 5000)
        live.run(spec, "simple.hold", 700)
        live.reading(reading.node_id, lambda r: (r.devices[0].used_mib, r.devices[1].used_mib) == (0, 700))
        live.cluster.stop_executor(spec.executor_id, force=True)
        assert live.ended(spec).cause is EndCause.STOPPED
        live.reading(reading.node_id, lambda r: r.devices[1].used_mib == 0)
        assert live.cluster.driver_pid is not None
        ray_processes = psutil.Process(live.cluster.driver_pid).children(recursive=True)
        assert ray_processes
    _, left = psutil.wait_procs(ray_processes, timeout=20)
    assert not left


@pytest.mark.slow
def test_an_agent_that_fails_is_made_again_and_that_is_said_once(
    ray_cluster: RayTestCluster, tmp_path: Path
) -> None:
    node = ray_cluster.add_node(num_gpus=1, env={"CELERAY_SIMULATE_GPUS": "1x8GiB"})
    broken = ray_cluster.add_node(num_gpus=1, env={"CELERAY_SIMULATE_GPUS": "12 elephants"})
    log = tmp_path / "driver.log"
    with live_cluster(ray_cluster.address, log, reading_interval_s=0.25) as live:
        live.reading(node.node_id, lambda reading: [d.name for d in reading.devices] == ["SIM-8GiB"])
        agent = _agent_pid(node)

        psutil.Process(agent).kill()

        until(lambda: not psutil.pid_exists(agent), "the agent dies")
        live.reading(node.node_id, lambda reading: len(reading.devices) == 1)
        assert _agent_pid(node) != agent
        until(lambda: broken.node_id in log.read_text(), "the broken node is told")
        assert "elephants" in log.read_text()
    for each in (node, broken):
        ray_cluster.remove_node(each)


BRIDGE = """
import sys, threading
from celeray.actors.cluster import RayCluster
from celeray.scheduler.cluster import NodeRead
from celeray.scheduler.settings import Settings
read = threading.Event()
cluster = RayCluster(Settings(simulate_gpus="1x1GiB"), "b", log_file=sys.argv[1])
cluster.start(lambda event: read.set() if isinstance(event, NodeRead) else None)
read.wait()
print(cluster.driver_pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_environment", "clean_environment")
def test_the_driver_and_its_ray_end_with_a_bridge_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BRIDGE, str(tmp_path / "driver.log")], stdout=subprocess.PIPE, text=True
    ) as bridge:
        assert bridge.stdout is not None
        driver = psutil.Process(int(bridge.stdout.readline()))
        processes = [driver, *driver.children(recursive=True)]
        assert len(processes) > 3

        bridge.kill()

    _, left = psutil.wait_procs(processes, timeout=30)
    assert not left


@pytest.mark.slow
@pytest.mark.usefixtures("ray_environment")
def test_a_ray_that_no_longer_answers_is_taken_for_lost(tmp_path: Path) -> None:
    with live_cluster(None, tmp_path / "driver.log", simulate_gpus="1x1GiB") as live:
        live.wait(NodeRead)
        assert live.cluster.driver_pid is not None
        driver = psutil.Process(live.cluster.driver_pid)
        (gcs,) = [child for child in driver.children(recursive=True) if child.name() == "gcs_server"]
        place = len(live.events)

        gcs.suspend()

        down = live.wait(ClusterDown, after=place)
        assert "has not answered" in down.detail
        live.wait(ClusterUp, after=place)
        live.wait(NodeRead, lambda e: bool(e.reading.devices), len(live.events) - 1)
    _, left = psutil.wait_procs([gcs], timeout=30)
    assert not left
