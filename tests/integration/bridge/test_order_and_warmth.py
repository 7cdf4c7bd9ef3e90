"""A live bridge on three raylets with 14 devices: a gang in a stream of small tasks, and models that share or don't."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.apps.models import NOTES
from tests.fake_nvml import FakeDevice
from tests.integration.conftest import RayTestCluster

from .live import LiveBridge, application, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.unmeasured,
    pytest.mark.slow,
    pytest.mark.timeout(420),
]

GIB = 1024
MODULE = "tests.apps.models"
RUN_S = 0.5


def cards(name: str, number: int) -> list[FakeDevice]:
    return [FakeDevice(f"GPU-{name}-{n}", f"NVIDIA {name}", total_mib=24 * GIB) for n in range(number)]


@pytest.fixture
def start_bridge(
    ray_cluster: RayTestCluster, broker: str, tmp_path: Path
) -> Iterator[Callable[..., LiveBridge]]:
    nodes = [ray_cluster.add_node(cards(*kind), num_cpus=8) for kind in (("A10", 8), ("A100", 4), ("L4", 2))]
    bridges: list[LiveBridge] = []

    def start(**env: str) -> LiveBridge:
        bridge = LiveBridge(
            broker, tmp_path, "--ray-address", ray_cluster.address, module=MODULE, gpus=None, env=env
        )
        bridges.append(bridge)
        return bridge.start()

    try:
        yield start
    finally:
        for bridge in bridges:
            bridge.stop()
        for node in nodes:
            ray_cluster.remove_node(node)


def notes(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(line) for line in client.lrange(NOTES, 0, -1)]  # type: ignore[union-attr]


class Stream:
    """Keeps more small tasks waiting than there are devices."""

    def __init__(self, app: Celery, url: str, waiting: int) -> None:
        self._task = app.tasks["models.fill"]
        self._url = url
        self._waiting = waiting
        self._sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            ended = sum(note["task"] == "fill" for note in notes(self._url))
            for _ in range(self._waiting - (self._sent - ended)):
                self._task.delay(RUN_S)
                self._sent += 1


def gang_begins(bridge: LiveBridge, within_s: float) -> bool:
    """Whether a task on four devices begins, though the stream goes on."""
    app = application(bridge.url, MODULE)
    with Stream(app, bridge.url, waiting=40):
        until(lambda: len(notes(bridge.url)) >= 60, "the stream flows on many devices", 180)
        devices = {note["devices"][0] for note in notes(bridge.url)}
        assert len(devices) >= 8
        gang = app.tasks["models.gang"].delay()
        end = time.monotonic() + within_s
        while time.monotonic() < end and not gang.ready():
            time.sleep(0.1)
        begun: bool = gang.ready()
        return begun


def test_a_stream_of_small_tasks_does_not_starve_one_on_four_devices(
    start_bridge: Callable[..., LiveBridge],
) -> None:
    assert gang_begins(start_bridge(), within_s=60)


def test_without_the_reservation_it_starves(start_bridge: Callable[..., LiveBridge]) -> None:
    bridge = start_bridge(CELERAY_RESERVATION="false", CELERAY_PRIORITY_AGING_S="0")
    assert not gang_begins(bridge, within_s=20)


def load_in_turns(bridge: LiveBridge, names: tuple[str, str], runs: int, at_once: int) -> Counter[bool]:
    """Run the two tasks in turns; counts which runs found their model loaded (False: not `loaded` by them)."""
    app = application(bridge.url, MODULE)
    sent = []
    for number in range(runs):
        sent.append(app.tasks[names[number % 2]].delay(0.05))
        if at_once:
            until(lambda: sum(not result.ready() for result in sent) < at_once, "few wait", 120)
    for result in sent:
        result.get(timeout=300)
    return Counter(note["loaded"] for note in notes(bridge.url))


def test_models_that_fit_together_stay_warm(start_bridge: Callable[..., LiveBridge]) -> None:
    found = load_in_turns(start_bridge(), ("models.one", "models.two"), runs=100, at_once=2)
    assert found[False] / 100 > 0.9


@pytest.mark.parametrize("min_stay", ["3", "0"])
def test_models_that_do_not_fit_together_are_not_loaded_in_turns(
    start_bridge: Callable[..., LiveBridge], min_stay: str
) -> None:
    bridge = start_bridge(CELERAY_EXECUTOR_MIN_STAY=min_stay)
    found = load_in_turns(bridge, ("models.wide_one", "models.wide_two"), runs=40, at_once=0)
    if min_stay == "0":
        assert found[True] > 20, "the test bites: nearly each run loads"
    else:
        assert found[True] <= 8
