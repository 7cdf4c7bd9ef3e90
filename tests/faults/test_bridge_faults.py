"""The GPU bridge, its executors and its nodes, on real raylets: killed and stopped under load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.gpu import GPU_LEASE_S, NODE, GpuRig
from tests.faults.rig import Rig
from tests.faults.servers import until
from tests.faults.workers import Keeper
from tests.integration.conftest import AddedNode, RayTestCluster

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]

DRAIN_S = 100.0
"""Starting a bridge or an executor takes seconds each."""


def test_bridges_killed_at_random(gpus: GpuRig, settle: Any) -> None:
    chance = random.Random(11)
    bridge = gpus.bridge()
    with gpus.load():
        gpus.running(5)
        for number in range(2):
            time.sleep(chance.uniform(0.5, 2.0))
            gpus.rig.fault("bridge killed")
            bridge.kill(group=number % 2 == 0)
            bridge = gpus.bridge()
    settle(gpus.rig, "bridge SIGKILL at random under load", drain_s=DRAIN_S)


def test_a_bridge_stopped_for_longer_than_its_lease(gpus: GpuRig, settle: Any) -> None:
    gpus.rig.watch(Keeper(gpus.rig.config(), gpus.rig.folder, "keeper")).await_ready()
    bridge = gpus.bridge()
    with gpus.load(seconds=1.0):
        gpus.running(5)
        gpus.rig.fault("bridge stopped")
        bridge.signal(signal.SIGSTOP)
        time.sleep(2 * GPU_LEASE_S)
        bridge.signal(signal.SIGCONT)
        time.sleep(1.0)
    settle(gpus.rig, "bridge SIGSTOP longer than the lease, then SIGCONT", drain_s=DRAIN_S)
    assert bridge.alive


def test_executors_killed(gpus: GpuRig, settle: Any) -> None:
    gpus.bridge()
    with gpus.load():
        gpus.running(5)
        for _ in range(3):
            pid = started_last(gpus.rig)
            gpus.rig.fault("executor killed")
            os.kill(pid, signal.SIGKILL)
            time.sleep(1.5)
    settle(gpus.rig, "executor SIGKILL under load", drain_s=DRAIN_S)


def started_last(rig: Rig) -> int:
    """The executor of the newest run that lives."""
    starts = [record for record in rig.history.read() if record["event"] == "start"]
    return next(record["pid"] for record in reversed(starts) if Path(f"/proc/{record['pid']}").exists())


def test_a_raylet_that_is_killed(gpus: GpuRig, nodes: RayTestCluster, settle: Any) -> None:
    victim = nodes.add_node(**NODE)
    gpus.bridge()
    with gpus.load(seconds=2.0):
        until(lambda: runs_on(gpus.rig, victim), "a run goes on there", 90, 0.1)
        gpus.rig.fault("raylet killed")
        nodes.remove_node(victim)
        time.sleep(2.0)
    settle(gpus.rig, "raylet SIGKILL with every process of its node", drain_s=DRAIN_S)


def runs_on(rig: Rig, node: AddedNode) -> bool:
    """Whether a run that has not ended is in a process of the node."""
    raylet = node.ray_node.all_processes["raylet"][0].process.pid
    records = rig.history.read()
    ended = {record["run"] for record in records if record["event"] == "end"}
    for record in records:
        if record["event"] == "start" and record["run"] not in ended:
            with contextlib.suppress(psutil.NoSuchProcess):
                if raylet in {parent.pid for parent in psutil.Process(record["pid"]).parents()}:
                    return True
    return False
