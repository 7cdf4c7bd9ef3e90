"""Tenants on one device: who comes later does not wait for all of who came first.

The bridge is real, and its cluster keeps time instead of running tasks, so no Ray is needed. Orders are compared, and
no times.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

import celeray
from tests.apps.timed_cluster import STARTS

from .live import LiveBridge, application, until

pytestmark = pytest.mark.integration
RUN_S = 0.02


@pytest.fixture
def bridge(broker: str, tmp_path: Path) -> Iterator[Any]:
    """Starts one on a device of 24 GiB, that holds so many messages."""
    made: list[LiveBridge] = []

    def start(window: int) -> None:
        env = {
            "CELERAY_CLUSTER": "tests.apps.timed_cluster:TimedCluster",
            "CELERAY_TRANSPORT": "leased",
            # Else a call carries many of them, and an order of starts says little.
            "CELERAY_BATCH_MAX_RUNS": "1",
        }
        live = LiveBridge(broker, tmp_path, "-c", str(window), gpus="1x24GiB", env=env)
        made.append(live)
        live.start()

    yield start
    for live in made:
        # It has no other processes, and a warm shutdown would wait for its tasks.
        live.signal(signal.SIGKILL)
        live.wait()


def signatures(app: Celery, tenant: str, count: int) -> list[Any]:
    options = {"queue": "gpu.processing", "headers": {"tenant": tenant}}
    return [app.tasks["gpu.whole"].signature((RUN_S,), **options) for _ in range(count)]


def started(client: redis.Redis) -> list[str]:
    """Task ids in the order of their starts."""
    return [json.loads(entry)[0] for entry in client.lrange(STARTS, 0, -1)]  # type: ignore[union-attr]


def places(broker: str, ids: set[str]) -> list[int]:
    """Places of these tasks among all starts, once all of them have started."""
    with redis.Redis.from_url(broker) as client:
        until(lambda: ids <= set(started(client)), "all of them have started")
        return [place for place, task_id in enumerate(started(client)) if task_id in ids]


@pytest.mark.slow
def test_twenty_of_who_comes_later_are_through_before_two_hundred_of_who_came_first(
    bridge: Any, broker: str
) -> None:
    app = application(broker)
    for one in signatures(app, "a", 200):
        one.apply_async()
    bridge(window=16)
    with redis.Redis.from_url(broker) as client:
        until(lambda: len(started(client)) >= 10, "who came first has begun")
        later = {one.apply_async().id for one in signatures(app, "b", 20)}
        before = len(started(client))
        found = places(broker, later)
        assert found[-1] < before + 80, "taking turns it is about forty, and at first what the other has used"
        assert len(started(client)) < 160, "most of who came first still wait"
        until(lambda: client.exists(*client.keys("celeray:tenants:*")) > 0, "bridges can read what was used")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_messages_of_one_hide_none_of_another(bridge: Any, broker: str) -> None:
    app = application(broker)
    celeray.submit_batch(signatures(app, "a", 10_000), app)
    later = {one.apply_async().id for one in signatures(app, "b", 20)}
    bridge(window=16)
    assert places(broker, later)[-1] < 2_000
