"""Two bridges on the leased transport: what becomes of the runs of one that is stopped, or killed.

Each is on a Ray of its own on this machine, so all see one monotonic clock.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celeray.scheduler.embedded_redis import EmbeddedRedis

from .live import LiveBridge, application, until

pytestmark = pytest.mark.unmeasured

LEASE_S = 3.0
RESTORED_WITHIN_S = LEASE_S + 5.0
"""What is promised: one lease time and the keepers' interval."""
TIMEOUT_S = 120


class Pair:
    """Two bridges on one broker, and a look into it."""

    def __init__(self, url: str, folder: Any) -> None:
        env = {"CELERAY_TRANSPORT": "leased", "TEST_LEASE_S": str(LEASE_S)}
        self.url = url
        self.bridges = [LiveBridge(url, folder, name=f"lease{n}", gpus="1x24GiB", env=env) for n in (1, 2)]
        self.redis: Any = redis.Redis.from_url(url)

    @property
    def app(self) -> Celery:
        return application(self.url)

    def start(self) -> None:
        for bridge in self.bridges:
            bridge.start()

    def owners(self) -> list[LiveBridge]:
        """The bridges that hold messages, one entry a message."""
        pids = [int(value.split(b":")[1]) for value in self.redis.hvals("celeray:leases")]
        return [bridge for pid in pids for bridge in self.bridges if bridge.pid == pid]

    def stop(self) -> None:
        for bridge in self.bridges:
            bridge.signal(signal.SIGCONT)
            bridge.stop()
        self.redis.close()

    def times(self, key: str, what: str) -> dict[int, float]:
        """By fence."""
        return {int(fence): float(at) for fence, at in self.redis.hgetall(f"{key}:{what}").items()}


@pytest.fixture(scope="module")
def pair(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    made = Pair(url, tmp_path_factory.mktemp("leases"))
    made.start()
    yield made
    made.stop()


def begun_by(pair: Pair, key: str) -> LiveBridge:
    """The bridge that runs the one task that there is."""
    until(lambda: pair.times(key, "begun"), "the task has begun")
    [bridge] = pair.owners()
    return bridge


@pytest.mark.slow
def test_a_task_longer_than_three_lease_times_runs_once(pair: Pair) -> None:
    key = uuid.uuid4().hex
    sent = pair.app.tasks["gpu.beat"].delay(key, 3.2 * LEASE_S)
    fence = sent.get(timeout=TIMEOUT_S)
    assert list(pair.times(key, "begun")) == [fence]
    until(lambda: not pair.owners(), "it is acknowledged")


@pytest.mark.parametrize("stopped_s", [2 * LEASE_S, pytest.param(90.0, marks=pytest.mark.timeout(400))])
@pytest.mark.slow
def test_runs_of_a_stopped_bridge_are_ended_before_others_start(pair: Pair, stopped_s: float) -> None:
    key, app = uuid.uuid4().hex, pair.app
    beat, note = app.tasks["gpu.beat"], app.tasks["gpu.note"]
    # Longer than it takes until another bridge may begin it.
    sent = beat.apply_async((key, 2 * LEASE_S), link=note.si(f"{key}:notes"))
    stopped = begun_by(pair, key)
    stopped_at = time.monotonic()
    stopped.signal(signal.SIGSTOP)
    try:
        until(lambda: len(pair.times(key, "begun")) == 2, "another bridge runs it")
        (first, second), seen = sorted(pair.times(key, "begun")), pair.times(key, "seen")
        assert seen[first] < pair.times(key, "begun")[second]
        # It was ended by then, not only done: before its lease, renewed last before the stop, can have ended.
        assert seen[first] < stopped_at + LEASE_S
        assert sent.get(timeout=TIMEOUT_S) == second
        until(lambda: time.monotonic() - stopped_at > stopped_s, "it was stopped for so long", 120)
    finally:
        stopped.signal(signal.SIGCONT)
    # It finds its lease lost, tells nobody, and goes on with new work.
    until(lambda: pair.redis.get(f"{key}:notes"), "the callback ran")
    for other in [app.tasks["gpu.add"].delay(number, 1) for number in range(8)]:
        assert other.get(timeout=TIMEOUT_S)
    until(lambda: not pair.owners(), "all is acknowledged")
    assert sent.get(timeout=TIMEOUT_S) == second
    assert pair.redis.get(f"{key}:notes") == b"1"
    assert len(pair.times(key, "begun")) == 2


@pytest.mark.slow
def test_messages_of_a_killed_bridge_run_again_within_a_lease_time_plus_5_s(pair: Pair) -> None:
    key, app = uuid.uuid4().hex, pair.app
    sent = app.tasks["gpu.beat"].apply_async((key, 1.0), link=app.tasks["gpu.note"].si(f"{key}:notes"))
    killed = begun_by(pair, key)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    [left] = [bridge for bridge in pair.bridges if bridge is not killed]
    until(lambda: left in pair.owners(), "the other bridge has the message", RESTORED_WITHIN_S)
    second = sent.get(timeout=TIMEOUT_S)
    begun = pair.times(key, "begun")
    assert len(begun) == 2
    assert second == max(begun)
    until(lambda: pair.redis.get(f"{key}:notes") == b"1" and not pair.owners(), "the callback ran, once")
    killed.start()
