"""Executors that die, bridges that stop, clusters that go away: no message is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from .live import LiveBridge, application, until

pytestmark = pytest.mark.integration


@pytest.fixture
def own_bridge(broker: str, tmp_path: Path) -> Iterator[LiveBridge]:
    """A bridge that the test may end, with one device."""
    bridge = LiveBridge(broker, tmp_path, gpus="1x24GiB").start()
    yield bridge
    bridge.stop()


def started(result: Any) -> int:
    """Wait for the task's begin and return its pid."""
    until(lambda: result.state == "STARTED", "the task runs")
    return int(result.info["pid"])


def depth(url: str, queue: str = "gpu.processing") -> int:
    with redis.Redis.from_url(url) as client:
        names = [queue, *(f"{queue}\x06\x16{step}" for step in range(1, 10))]
        return sum(client.llen(name) for name in names)  # type: ignore[misc]


def test_the_message_of_a_killed_executor_runs_again(app: Celery) -> None:
    result = app.tasks["gpu.sleep"].delay(2.0)
    pid = started(result)
    os.kill(pid, signal.SIGKILL)
    assert result.get(timeout=60)["pid"] != pid
    assert app.tasks["gpu.whole"].delay(0.0).get(timeout=60)["devices"], "the device is usable again"


def test_an_idle_executor_that_dies_is_replaced(app: Celery) -> None:
    pid = app.tasks["gpu.here"].delay().get(timeout=60)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert app.tasks["gpu.here"].delay().get(timeout=60)["pid"] != pid


def test_warm_shutdown_gives_back_what_waits_at_once_and_finishes_what_runs(own_bridge: LiveBridge) -> None:
    app = application(own_bridge.url)
    running = app.tasks["gpu.whole"].delay(4.0)
    started(running)
    waiting = [app.tasks["gpu.whole"].delay(0.0) for _ in range(5)]
    until(lambda: depth(own_bridge.url) == 0, "the bridge holds them all")
    own_bridge.signal(signal.SIGTERM)
    # One more may be in the reply to kombu's outstanding BRPOP, which returns it when its channel closes.
    until(lambda: depth(own_bridge.url) >= 4, "the waiting ones are back")
    assert not running.ready(), "they were given back at once, not when the running one ended"
    assert own_bridge.wait() == 0
    assert depth(own_bridge.url) == 5
    assert running.get(timeout=5)["devices"]
    with redis.Redis.from_url(own_bridge.url) as client:
        assert client.hlen("unacked") == 0, "the running one was acknowledged"
    assert not any(result.ready() for result in waiting)


@pytest.mark.slow
def test_cold_shutdown_gives_everything_back(own_bridge: LiveBridge) -> None:
    app = application(own_bridge.url)
    pid = started(app.tasks["gpu.whole"].apply_async((60.0,)))
    app.tasks["gpu.whole"].delay(0.0)
    until(lambda: depth(own_bridge.url) == 0, "the bridge holds both")
    own_bridge.signal(signal.SIGQUIT)
    own_bridge.signal(signal.SIGQUIT)
    own_bridge.wait()
    assert depth(own_bridge.url) == 2
    until(lambda: not _alive(pid), "the executor is gone")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_executors_are_replaced_after_max_tasks_per_child(broker: str, tmp_path: Path) -> None:
    bridge = LiveBridge(broker, tmp_path, gpus="1x24GiB", name="short")
    bridge._command += ["--max-tasks-per-child", "2"]
    bridge.start()
    try:
        app = application(broker)
        pids = [app.tasks["gpu.here"].delay().get(timeout=60)["pid"] for _ in range(4)]
    finally:
        bridge.stop()
    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert pids[1] != pids[2]


def cut(client: redis.Redis, pid: int) -> None:
    """Close every connection that the process has to the server."""
    ports = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.laddr}
    for entry in client.client_list():
        if int(entry["addr"].rsplit(":", 1)[1]) in ports:
            client.client_kill_filter(_id=entry["id"])


@pytest.mark.slow
def test_a_broken_connection_does_not_run_a_running_task_twice(own_bridge: LiveBridge) -> None:
    app = application(own_bridge.url)
    running = app.tasks["gpu.counted"].delay(6.0)
    started(running)
    with redis.Redis.from_url(own_bridge.url) as client:
        cut(client, own_bridge.pid)
        assert running.get(timeout=60) == 1
        until(lambda: client.hlen("unacked") == 0, "its message is acknowledged")
    assert app.tasks["gpu.counted"].delay(0.0).get(timeout=60) == 1


@pytest.mark.slow
def test_a_task_out_of_memory_fails_and_its_message_is_settled(own_bridge: LiveBridge) -> None:
    app = application(own_bridge.url)
    with pytest.raises(MemoryError):
        app.tasks["gpu.exhaust"].delay().get(timeout=60)
    with redis.Redis.from_url(own_bridge.url) as client:
        until(lambda: client.hlen("unacked") == 0, "its message is acknowledged")


@pytest.mark.slow
def test_a_task_longer_than_the_visibility_timeout_runs_once(broker: str, tmp_path: Path) -> None:
    bridge = LiveBridge(
        broker, tmp_path, gpus="1x24GiB", name="short", env={"TEST_VISIBILITY_TIMEOUT": "2"}
    ).start()
    try:
        app = application(broker)
        running = app.tasks["gpu.counted"].delay(8.0)
        started(running)
        waiting = app.tasks["gpu.counted"].apply_async(
            (0.0,), headers={"resource_requirements": {"vram_gb": 22}}
        )
        assert running.get(timeout=60) == 1, "what runs is not delivered again"
        assert waiting.get(timeout=60) == 1, "nor what waits"
    finally:
        bridge.stop()
