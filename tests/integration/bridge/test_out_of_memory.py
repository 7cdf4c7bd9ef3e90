"""GPU memory that runs out on a real bridge: placed again with more, on nobody's retries and nobody's expense."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
import redis
from celery import Celery

import celeray
from celeray.api.metrics_collector import picture_of, render
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.overview import read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import TaskRecord
from celeray.scheduler.status_store import StatusStore

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
TIMEOUT_S = 90
GIB = 1024
MODULE = "tests.apps.oom"


@pytest.fixture(scope="module")
def bridge(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBridge]:
    """One simulated device of 24 GiB, so that everybody is everybody's neighbour."""
    url = f"redis://127.0.0.1:{redis_server.port}/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    folder = tmp_path_factory.mktemp("oom")
    bridge = LiveBridge(url, folder, module=MODULE, gpus="1x24GiB", name="oom").start()
    yield bridge
    bridge.stop()


@pytest.fixture
def app(bridge: LiveBridge) -> Celery:
    return application(bridge.url, MODULE)


@pytest.fixture
def client(bridge: LiveBridge) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(bridge.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def events(app: Celery) -> Iterator[dict[str, list[str]]]:
    """Types of Celery's events by task id, as they come."""
    seen: dict[str, list[str]] = {}

    def note(event: dict[str, Any]) -> None:
        if event["type"] != "task-sent":
            seen.setdefault(event.get("uuid", ""), []).append(event["type"])

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        thread = Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        until(lambda: seen.get(""), "a heartbeat of the bridge was heard")
        yield seen
        receiver.should_stop = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def ends(client: Any) -> Iterator[list[str]]:
    """Keys that neighbours wait for: set in any case, or the bridge would wait for them."""
    keys: list[str] = []
    yield keys
    for key in keys:
        client.set(key, "1")


def had(client: Any, result: Any) -> list[int]:
    """MiB that each run of the task had."""
    return [int(entry.partition("@")[0]) for entry in client.lrange(f"had:{result.id}", 0, -1)]


def pids(client: Any, result: Any) -> set[str]:
    return {entry.partition("@")[2] for entry in client.lrange(f"had:{result.id}", 0, -1)}


def record(bridge: LiveBridge, result: Any, state: str) -> TaskRecord:
    """What the bridge wrote of the task once it was in that state."""
    with redis.Redis.from_url(bridge.url) as client:
        store = StatusStore(client)

        def ended() -> TaskRecord | None:
            found = store.read_task(result.id)
            return found if found is not None and found.state == state else None

        return until(ended, f"{result.id} is {state}")


def counted(bridge: LiveBridge, name: str) -> float:
    """The metric's value."""
    with redis.Redis.from_url(bridge.url) as raw:
        overview = read_overview(StatusStore(raw), Settings(), time.time())
    page, _ = render(picture_of(overview, Settings(), {}), "text/plain", celery_compat=True)
    lines = [line for line in page.decode().splitlines() if line.startswith("celeray_gpu_oom_total{")]
    return sum(float(line.split()[-1]) for line in lines if f'name="{name}"' in line)


def test_a_task_that_asks_too_little_is_placed_until_it_fits_and_its_neighbours_never_fail(
    app: Celery, bridge: LiveBridge, client: Any, events: dict[str, list[str]], ends: list[str]
) -> None:
    key = f"end-{uuid.uuid4()}"
    ends.append(key)
    neighbours = [app.tasks["oom.neighbour"].delay(key) for _ in range(2)]
    until(lambda: client.get(f"{key}:runs") == "2", "both neighbours run")

    result = app.tasks["oom.render"].apply_async((14,), link_error=app.tasks["oom.told"].s())
    value = result.get(timeout=TIMEOUT_S)

    assert value["retries"] == 0
    assert had(client, result) == [8 * GIB, 12 * GIB, 18 * GIB]
    assert len(pids(client, result)) == 3, "each executor that ran out was replaced"
    assert client.get(f"failures:{result.id}") is None
    until(lambda: "task-succeeded" in events.get(result.id, ()), "its events are here")
    assert events[result.id] == ["task-received", *["task-started"] * 3, "task-succeeded"]

    assert [each.state for each in neighbours] == ["STARTED"] * 2
    client.set(key, "1")
    assert [each.get(timeout=TIMEOUT_S) for each in neighbours] == [1, 1], "each ran once"

    seen = record(bridge, result, "succeeded")
    assert (seen.vram_mib, seen.raised_mib, seen.reserved_mib) == (8 * GIB, 18 * GIB, 18 * GIB)
    assert [entry.reserved_mib for entry in seen.out_of_memory] == [8 * GIB, 12 * GIB]
    assert {entry.device_uuids for entry in seen.out_of_memory} == {(value["devices"],)}
    assert not client.hlen("celeray:parked"), "no poison, no letter"
    assert counted(bridge, "oom.render") == 2
    assert client.get(f"told:{result.id}") is None


def test_autoretry_a_wrapped_error_and_a_fresh_process(app: Celery, client: Any) -> None:
    auto, fresh = app.tasks["oom.auto"].delay(10), app.tasks["oom.fresh"].delay(11)
    assert auto.get(timeout=TIMEOUT_S) == 0, "the task's own retries are left alone"
    assert fresh.get(timeout=TIMEOUT_S) > 0
    for result in (auto, fresh):
        assert had(client, result) == [8 * GIB, 12 * GIB]
        assert len(pids(client, result)) == 2


def test_at_its_bound_it_is_the_tasks_failure_once(app: Celery, bridge: LiveBridge, client: Any) -> None:
    result = app.tasks["oom.bounded"].apply_async(link_error=app.tasks["oom.told"].s())
    with pytest.raises(celeray.OutOfGpuMemoryError, match="not enough"):
        result.get(timeout=TIMEOUT_S)
    assert had(client, result) == [8 * GIB, 12 * GIB]
    # Celery stores the result first.
    until(lambda: client.get(f"told:{result.id}"), "its errback was called")
    until(lambda: client.get(f"failures:{result.id}"), "its failure was signalled")
    assert client.get(f"told:{result.id}") == client.get(f"failures:{result.id}") == "1"
    assert len(record(bridge, result, "failed").out_of_memory) == 1
    with redis.Redis.from_url(bridge.url) as raw:
        letters = Letters(raw, Keys())
        (letter,) = until(
            lambda: [each for each in letters.walk() if each.task_id == result.id], "its letter is there"
        )
    assert letter.reason == "vram"


@pytest.mark.slow
def test_a_run_after_one_that_ran_out_counts_towards_poison(app: Celery, client: Any) -> None:
    parked = client.hlen("celeray:parked")
    result = app.tasks["oom.deadly"].delay()
    until(lambda: client.hlen("celeray:parked") > parked, "it is parked", TIMEOUT_S)
    assert had(client, result) == [8 * GIB, 12 * GIB] * 3
    assert client.hlen("celeray:parked") == parked + 1


@pytest.mark.slow
def test_one_of_a_batch(app: Celery, client: Any) -> None:
    brief, parked = app.tasks["oom.brief"], client.hlen("celeray:parked")
    assert [result.get(timeout=TIMEOUT_S) for result in [brief.delay() for _ in range(30)]] == [0] * 30
    results = [brief.delay(*([15] if number == 20 else [])) for number in range(40)]
    assert [result.get(timeout=TIMEOUT_S) for result in results] == [
        15 * (number == 20) for number in range(40)
    ]
    assert had(client, results[20]) == [13 * GIB, 19 * GIB + 512]
    assert client.hlen("celeray:parked") == parked
