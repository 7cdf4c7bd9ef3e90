"""The bridge's window: the most urgent first also when it is full, room for every class, and paused queues.

The bridge is real, and its cluster keeps time instead of running tasks, so no Ray is needed.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.apps.timed_cluster import STARTS

from .live import LiveBridge, application, until

WINDOW = 8
BUSY_S = 0.3
REACH_S = 0.15
"""What starts so soon after the publish may have been decided before."""


class Starts:
    """What has started, in its order."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client

    def ids(self) -> list[str]:
        return [task_id for task_id, _ in self.all()]

    def all(self) -> list[tuple[str, float]]:
        """Task id and time."""
        return [(entry[0], entry[1]) for entry in map(json.loads, self.client.lrange(STARTS, 0, -1))]

    def __len__(self) -> int:
        return int(self.client.llen(STARTS))


@pytest.fixture
def starts(broker: str) -> Iterator[Starts]:
    with redis.Redis.from_url(broker) as client:
        yield Starts(client)


@pytest.fixture
def bridge(broker: str, tmp_path: Path) -> Iterator[Any]:
    """Starts one with so many devices of 24 GiB."""
    made: list[LiveBridge] = []

    def start(devices: int = 1, **environment: str) -> Celery:
        env = {
            "CELERAY_CLUSTER": "tests.apps.timed_cluster:TimedCluster",
            "CELERAY_TRANSPORT": "leased",
            **environment,
        }
        live = LiveBridge(broker, tmp_path, "-c", str(WINDOW), gpus=f"{devices}x24GiB", env=env)
        made.append(live)
        live.start()
        return application(broker)

    yield start
    for live in made:
        # It has no other processes, and a warm shutdown would wait for its tasks.
        live.signal(signal.SIGKILL)
        live.wait()


def send(app: Celery, name: str, seconds: float, priority: int = 5) -> str:
    return str(app.tasks[f"gpu.{name}"].apply_async((seconds,), priority=priority, queue="gpu.processing").id)


def urgent_trials(app: Celery, starts: Starts, trials: int) -> int:
    """How often an urgent task was the very next to start: the device busy, the window full, a backlog behind it."""
    for _ in range(3 * trials + 50):
        send(app, "whole", BUSY_S)
    right = 0
    for _ in range(trials):
        begun = len(starts)
        until(lambda begun=begun: len(starts) > begun, "the next start")
        urgent = send(app, "whole", BUSY_S, priority=10)
        published = time.monotonic()
        until(lambda urgent=urgent: urgent in starts.ids(), "the urgent start")
        later = [task_id for task_id, at in starts.all() if at > published + REACH_S]
        right += urgent not in later or later[0] == urgent
    return right


def test_urgent_is_the_very_next_to_start(bridge: Any, starts: Starts) -> None:
    assert urgent_trials(bridge(), starts, 8) == 8


@pytest.mark.slow
def test_urgent_is_the_very_next_to_start_100_of_100(bridge: Any, starts: Starts) -> None:
    assert urgent_trials(bridge(), starts, 100) == 100


def fill_with_what_cannot_fit(app: Celery, starts: Starts) -> None:
    """Two devices, one of them shared, so that no more whole ones fit; and far more of those than the window takes."""
    send(app, "sleep", 600)
    until(lambda: len(starts) == 1, "the small one runs")
    for _ in range(5 * WINDOW):
        send(app, "whole", 600)
    until(lambda: len(starts) == 2, "one of them runs")


def test_a_window_of_what_cannot_fit_keeps_no_small_one_waiting(bridge: Any, starts: Starts) -> None:
    app = bridge(devices=2)
    fill_with_what_cannot_fit(app, starts)
    small = send(app, "sleep", 0)
    until(lambda: small in starts.ids(), "the small one starts", 10)
    # Order is kept: what was taken first is held, and the rest follows in the queue.
    assert len(starts) == 3


def test_limited_classes_cause_no_traffic(bridge: Any, starts: Starts) -> None:
    app = bridge(devices=2)
    fill_with_what_cannot_fit(app, starts)
    until(lambda: starts.client.hlen("unacked") < WINDOW, "the surplus went back")

    def scripts() -> int:
        return int(starts.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    until(lambda: scripts() == (before := scripts()) and before, "quiet")
    before = scripts()
    send(app, "sleep", 0)
    until(lambda: len(starts) == 3, "another small one")
    assert scripts() - before < 40


def held(starts: Starts) -> int:
    return int(starts.client.hlen("unacked"))


def pause(starts: Starts, queue: str) -> None:
    starts.client.hset("celeray:paused", queue, json.dumps({"by": "t", "at": 1.0, "why": "w"}))


def test_a_pause_gives_back_what_waits_and_lets_run_what_runs(bridge: Any, starts: Starts) -> None:
    app = bridge()
    sent = [send(app, "whole", 1.5 if number == 0 else 0.0) for number in range(2 * WINDOW)]
    until(lambda: held(starts) == WINDOW, "the window is full")
    pause(starts, "gpu.processing")
    until(lambda: held(starts) <= 1, "only what runs is held", 5)
    until(lambda: held(starts) == 0, "it ended")
    assert starts.ids() == sent[:1]
    sent += [send(app, "whole", 0)]
    starts.client.hdel("celeray:paused", "gpu.processing")
    until(lambda: len(starts) == len(sent), "all have run")
    assert starts.ids() == sent


def test_a_bridge_that_starts_later_honours_a_pause(bridge: Any, broker: str, starts: Starts) -> None:
    pause(starts, "gpu.processing")
    app = application(broker)
    paused = send(app, "whole", 0)
    other = str(app.tasks["gpu.whole"].apply_async((0,), queue="gpu.generation").id)
    bridge()
    until(lambda: starts.ids() == [other], "the other queue's")
    starts.client.hdel("celeray:paused", "gpu.processing")
    until(lambda: starts.ids() == [other, paused], "resumed")
