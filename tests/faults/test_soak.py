"""Constant load and random kills for minutes: nothing lost or doubled, and nothing grows.

`FAULTS_SOAK_S=1800 scripts/test --all tests/faults/test_soak.py` for half an hour; 5 minutes otherwise.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests.faults.application import QUEUE
from tests.faults.gpu import GpuRig
from tests.faults.rig import Rig
from tests.faults.test_bridge_faults import started_last
from tests.faults.workers import Keeper, Worker

SOAK_S = float(os.environ.get("FAULTS_SOAK_S", "300"))
RESULT_TTL_S = 100
"""Longer than any chord takes, whose parts expire with it."""
MIB = 1024 * 1024
SAMPLE_EVERY_S = 2.0
KILL_EVERY_S = (6.0, 14.0)
GROWTH = 1.15
"""Of the median of the last third over that of the second: measured noise is below 1.1."""
SLACK = {"memory": 4 * MIB, "keys": 30}


class Sampler:
    """Memory of the processes that are never killed and of the broker's server, and its keys that never expire."""

    def __init__(self, rig: Rig, pids: Mapping[str, int]) -> None:
        self._rig = rig
        self._pids = pids
        self.samples: dict[str, list[float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults-samples", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(20)

    def _run(self) -> None:
        with self._rig.broker.client() as client:
            while not self._stopping.wait(SAMPLE_EVERY_S):
                for name, value in self._sample(client).items():
                    self.samples.setdefault(name, []).append(value)

    def _sample(self, client: Any) -> dict[str, float]:
        keys = client.info("keyspace").get("db0", {"keys": 0, "expires": 0})
        found = {f"{name} memory": float(family_rss(pid)) for name, pid in self._pids.items()}
        found["redis memory"] = client.info("memory")["used_memory"]
        found["redis keys"] = keys["keys"] - keys["expires"]
        return found

    def growth(self) -> dict[str, tuple[float, float]]:
        """Medians of the second and of the last third."""
        thirds = {name: len(values) // 3 for name, values in self.samples.items()}
        return {
            name: (
                statistics.median(values[thirds[name] : 2 * thirds[name]]),
                statistics.median(values[2 * thirds[name] :]),
            )
            for name, values in self.samples.items()
        }


def family_rss(pid: int) -> int:
    """Resident bytes of a process and of its children."""
    total = 0
    process = psutil.Process(pid)
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(SOAK_S + 300)
def test_nothing_grows_under_constant_load_and_random_kills(
    gpus: GpuRig, settle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, chance = gpus.rig, random.Random(5)
    # What is kept for as long as a result goes while it is looked at.
    monkeypatch.setenv("CELERAY_RESULT_TTL_S", str(RESULT_TTL_S))
    rig.watch(Keeper(rig.config(), rig.folder, "keeper")).await_ready()
    bridge = gpus.bridge()
    plain = replace(rig.config(), queue=QUEUE)
    witness = rig.worker(config=plain)
    victim: Worker = rig.worker(config=plain)
    cpu_load = rig.load_of(plain, rate=8)
    with Sampler(rig, {"bridge": bridge.pid, "worker": witness.pid}) as sampler, gpus.load(rate=3), cpu_load:
        ends = time.monotonic() + SOAK_S
        while time.monotonic() < ends:
            time.sleep(chance.uniform(*KILL_EVERY_S))
            if chance.random() < 0.5:
                rig.fault("worker killed")
                victim.kill(group=chance.random() < 0.5)
                victim = rig.worker(config=plain)
            else:
                rig.fault("executor killed")
                os.kill(started_last(rig), signal.SIGKILL)
    growth = sampler.growth()
    for name, (second, last) in growth.items():
        unit = MIB if "memory" in name else 1
        print(f"{name}: {second / unit:.1f} -> {last / unit:.1f}")
    title = f"soak of {SOAK_S / 60:g} minutes with random kills"
    settle(rig, title, drain_s=100, results_expire=True)
    for name, (second, last) in growth.items():
        assert last <= GROWTH * second + SLACK[name.split()[1]], f"{name} grows: {growth}"
