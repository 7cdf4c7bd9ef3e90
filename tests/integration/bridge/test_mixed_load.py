"""Real raylets with fake NVML libraries, watched from outside: what ran where is read from processes and from NVML."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, group

from tests.fake_nvml import FakeDevice, FakeNvml, allocate
from tests.integration.conftest import RayTestCluster

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured, pytest.mark.timeout(420)]

GIB = 1024
FOREIGN_PID = 1
"""Always alive, and no executor of ours."""


def cards(prefix: str, number: int, gib: int) -> list[FakeDevice]:
    return [
        FakeDevice(f"GPU-{prefix}-{n}", f"NVIDIA {prefix} {gib}GB", total_mib=gib * GIB)
        for n in range(number)
    ]


class Sampler(threading.Thread):
    """Reads the NVML state files all the time, and keeps each device's highest use and who had it."""

    def __init__(self, states: list[FakeNvml]) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, int] = {}
        self._states = states
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            for state in self._states:
                for uuid, mib in used(state).items():
                    self.peaks[uuid] = max(self.peaks.get(uuid, 0), mib)

    def finish(self) -> dict[str, int]:
        self._done.set()
        self.join()
        return self.peaks


def used(state: FakeNvml) -> dict[str, int]:
    """MiB by device, of the processes that live, as NVML shows it."""
    found: dict[str, int] = {}
    uuid = ""
    for line in state.path.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "device":
            uuid = value
            found[uuid] = 0
        elif key == "process":
            pid, amount = value.split()[:2]
            if Path(f"/proc/{pid}").exists():
                found[uuid] += int(amount) // (1024 * 1024)
    return found


@pytest.fixture
def cluster_bridge(
    ray_cluster: RayTestCluster, broker: str, tmp_path: Path
) -> Iterator[tuple[LiveBridge, list[FakeNvml], dict[str, int]]]:
    """A bridge on three raylets with unlike devices. Yields it with their NVML states and each device's MiB."""
    layout = [
        cards("A10", 2, 24),
        cards("A100", 1, 80),
        cards("T4", 4, 16),
    ]
    nodes = [ray_cluster.add_node(devices, num_cpus=4) for devices in layout]
    bridge = LiveBridge(
        broker,
        tmp_path,
        "--ray-address",
        ray_cluster.address,
        module="tests.apps.load",
        gpus=None,
        env={"CELERAY_EXECUTOR_START_CONCURRENCY": "2", "CELERAY_READING_INTERVAL_S": "0.5"},
    )
    try:
        bridge.start()
        yield (
            bridge,
            [node.nvml for node in nodes if node.nvml is not None],
            {device.uuid: device.total_mib or 0 for devices in layout for device in devices},
        )
    finally:
        bridge.stop()
        for node in nodes:
            ray_cluster.remove_node(node)


def devices_shown(url: str) -> dict[str, Any]:
    """What the bridge tells of its devices, by uuid."""
    from celeray.scheduler.status_store import StatusStore

    with redis.Redis.from_url(url) as client:
        bridges = StatusStore(client).read_bridges()
    return {device.uuid: device for bridge in bridges for device in bridge.devices}


def notes(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(line) for line in client.lrange("load:notes", 0, -1)]  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_mixed_tasks_never_exceed_a_device(
    cluster_bridge: tuple[LiveBridge, list[FakeNvml], dict[str, int]], number: int
) -> None:
    bridge, states, totals = cluster_bridge
    app = application(bridge.url, "tests.apps.load")
    until(lambda: len(devices_shown(bridge.url)) == 7, "all seven devices are leased")
    foreign = {"GPU-A10-0": 10 * GIB, "GPU-A100-0": 30 * GIB}
    for state in states:
        for uuid in set(foreign) & {device.uuid for device in state.devices}:
            allocate(uuid, foreign[uuid], pid=FOREIGN_PID, path=str(state.path))
    until(
        lambda: all(devices_shown(bridge.url)[uuid].foreign_mib == mib for uuid, mib in foreign.items()),
        "the foreign processes are seen",
    )
    sampler = Sampler(states)
    sampler.start()
    chance = random.Random(7)
    kinds = ["tiny"] * 6 + ["small"] * 5 + ["middle"] * 4 + ["large"] * 2 + ["pair"] * 2 + ["alone"]
    calls = [
        app.tasks[f"load.{chance.choice(kinds)}"].s(chance.choice([0.01, 0.05, 0.2])) for _ in range(number)
    ]
    group(calls)().get(timeout=360)
    peaks = sampler.finish()
    ran = notes(bridge.url)
    assert len(ran) == number
    for uuid, total in totals.items():
        assert peaks[uuid] <= total, f"{uuid}: NVML showed more than it has"
        assert highest(ran, uuid) <= total - foreign.get(uuid, 0), f"{uuid}: requests exceeded it"
    for note in ran:
        assert len(note["devices"]) == (2 if note["task"] == "load.pair" else 1)
        assert set(note["devices"]) <= set(totals)
        assert len({uuid.rsplit("-", 1)[0] for uuid in note["devices"]}) == 1, "a gang is on one node"
    assert_nobody_joined_an_exclusive_one(ran)


def highest(ran: list[dict[str, Any]], uuid: str) -> int:
    """The most MiB that tasks which ran at the same time had asked of the device."""
    changes = sorted(
        itertools.chain.from_iterable(
            ((note["begin"], note["mib"]), (note["end"], -note["mib"]))
            for note in ran
            if uuid in note["devices"]
        )
    )
    return max(itertools.accumulate(mib for _, mib in changes), default=0)


def assert_nobody_joined_an_exclusive_one(ran: list[dict[str, Any]]) -> None:
    for alone in (note for note in ran if note["task"] == "load.alone"):
        for other in ran:
            together = other["begin"] < alone["end"] and alone["begin"] < other["end"]
            assert other is alone or not together or not set(other["devices"]) & set(alone["devices"])


@pytest.mark.slow
def test_foreign_memory_keeps_tasks_away_and_lets_them_in_again(
    cluster_bridge: tuple[LiveBridge, list[FakeNvml], dict[str, int]],
) -> None:
    bridge, states, totals = cluster_bridge
    app = application(bridge.url, "tests.apps.load")
    until(lambda: len(devices_shown(bridge.url)) == len(totals), "all devices are leased")
    (big,) = [state for state in states if state.devices[0].uuid == "GPU-A100-0"]
    (a10,) = [state for state in states if state.devices[0].uuid == "GPU-A10-0"]
    foreign = {"GPU-A10-0": 10 * GIB, "GPU-A10-1": 10 * GIB, "GPU-A100-0": 70 * GIB}
    for uuid, mib in foreign.items():
        allocate(uuid, mib, pid=FOREIGN_PID, path=str((big if uuid == "GPU-A100-0" else a10).path))
    until(
        lambda: all(devices_shown(bridge.url)[uuid].foreign_mib == mib for uuid, mib in foreign.items()),
        "the foreign use is seen",
    )
    waiting = app.tasks["load.large"].delay(0.01)
    until(lambda: _reasons(bridge.url).get("vram") == 1, "it waits, and the reason is told")
    assert notes(bridge.url) == []
    allocate("GPU-A100-0", 0, pid=FOREIGN_PID, path=str(big.path))
    waiting.get(timeout=60)
    assert notes(bridge.url)[-1]["devices"] == ["GPU-A100-0"]


def _reasons(url: str) -> dict[str, int]:
    from celeray.scheduler.status_store import StatusStore

    with redis.Redis.from_url(url) as client:
        bridges = StatusStore(client).read_bridges()
    return {
        str(reason): n for bridge in bridges for queue in bridge.queues for reason, n in queue.reasons.items()
    }


@pytest.fixture
def eight(ray_cluster: RayTestCluster, broker: str, tmp_path: Path) -> Iterator[Celery]:
    """The producer's side of a bridge on one node with eight devices and eight CPUs."""
    node = ray_cluster.add_node(cards("L40", 8, 24), num_cpus=8)
    bridge = LiveBridge(
        broker, tmp_path, "--ray-address", ray_cluster.address, module="tests.apps.load", gpus=None
    )
    try:
        bridge.start()
        until(lambda: len(devices_shown(broker)) == 8, "all eight devices are leased")
        yield application(broker, "tests.apps.load")
    finally:
        bridge.stop()
        ray_cluster.remove_node(node)


@pytest.mark.slow
def test_sixteen_half_device_tasks_at_once_are_two_on_each_of_eight(eight: Celery) -> None:
    seen = group(eight.tasks["load.together"].s(16, 150.0) for _ in range(16))().get(timeout=200)
    counts: dict[str, int] = {}
    for (device,) in seen:
        counts[device] = counts.get(device, 0) + 1
    assert counts == {f"GPU-L40-{n}": 2 for n in range(8)}
    assert eight.tasks["load.all_cpus"].delay().get(timeout=60), "eight CPUs of an idle node of eight"
