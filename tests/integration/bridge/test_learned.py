"""A task that declares 8 GiB and holds 5, on a real bridge: packed by what was learned, by the next bridge as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.settings import Settings
from celeray.scheduler.states import ExecutorState
from celeray.scheduler.status import ExecutorStatus
from celeray.scheduler.status_store import StatusStore

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
TASK, HELD_MIB, LEARNED_MIB = "gpu.learns", 5120, 5632


@pytest.fixture(scope="module")
def url(redis_server: EmbeddedRedis) -> str:
    """An empty database of this module's own."""
    found = f"redis://127.0.0.1:{redis_server.port}/6"
    with redis.Redis.from_url(found) as client:
        client.flushdb()
    return found


@pytest.fixture(scope="module")
def store(url: str) -> Iterator[StatusStore]:
    with redis.Redis.from_url(url) as client:
        yield StatusStore(client)


def started(url: str, folder: Path, name: str) -> LiveBridge:
    return LiveBridge(url, folder, gpus="1x18GiB", name=name).start()


def executors(store: StatusStore) -> list[ExecutorStatus]:
    return [
        executor
        for bridge in store.read_bridges()
        for executor in bridge.executors
        if TASK in executor.executor_class
    ]


def busy(store: StatusStore) -> list[ExecutorStatus]:
    return [executor for executor in executors(store) if executor.state is ExecutorState.BUSY]


def hold_together(app: Celery, store: StatusStore, number: int, at_once: int) -> list[ExecutorStatus]:
    """Runs that wait for each other, until so many are under way; the executors that they have then."""
    key = f"go:{time.time()}"
    results = [app.send_task(TASK, (HELD_MIB, key), queue="gpu.generation") for _ in range(number)]
    try:
        found: list[ExecutorStatus] = until(
            lambda: there if len(there := busy(store)) == at_once else None,
            f"{at_once} of {number} run at once",
        )
    finally:
        store.client.set(key, 1)
    for result in results:
        result.get(timeout=60)
    return found


@pytest.mark.slow
def test_a_task_that_needs_less_than_it_declares(url: str, store: StatusStore, tmp_path: Path) -> None:
    app = application(url)
    bridge = started(url, tmp_path, "first")
    try:
        at_first = hold_together(app, store, 3, 2)
        assert [executor.memory_mib for executor in at_first] == [8192] * 2, "as declared"
        for _ in range(10):
            app.send_task(TASK, (HELD_MIB,), queue="gpu.generation").get(timeout=60)
        with TestClient(create_app(Settings(), store), base_url="http://127.0.0.1") as api:
            (learned,) = until(lambda: enough(api), "ten runs are in Redis")
            assert (learned["task"], learned["gpu_type"]) == (TASK, "SIM-18GiB")
            assert (learned["asked_mib"], learned["learned_mib"]) == (8192, LEARNED_MIB)
            assert learned["observed"]["p95_mib"] == HELD_MIB

            # The first task that asks by it finds executors that are much too large: they end when they are idle.
            app.send_task(TASK, (HELD_MIB,), queue="gpu.generation").get(timeout=60)
            until(
                lambda: not [one for one in executors(store) if one.memory_mib == 8192], "they are replaced"
            )
            packed = hold_together(app, store, 4, 3)
            assert [executor.memory_mib for executor in packed] == [LEARNED_MIB] * 3

            last = app.send_task(TASK, (HELD_MIB,), queue="gpu.generation")
            last.get(timeout=60)
            run = until(lambda: ended(api, last.id), "its record is written")
            assert (run["vram_mib"], run["reserved_mib"], run["peak_mib"]) == (8192, LEARNED_MIB, HELD_MIB)
            assert run["peak_attribution"] == "pid"
            assert (
                'celeray_task_vram_peak_bytes{gpu_type="SIM-18GiB",name="gpu.learns"'
                in api.get("/metrics").text
            )
    finally:
        bridge.stop()

    other = started(url, tmp_path, "second")
    try:
        app.send_task(TASK, (HELD_MIB,), queue="gpu.generation").get(timeout=60)
        (only,) = until(lambda: executors(store), "the second bridge has an executor")
        assert only.memory_mib == LEARNED_MIB, "by what the first one saw"
    finally:
        other.stop()


def enough(api: TestClient) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = api.get("/v1/learned").json()["tasks"]
    return [task for task in tasks if task["observed"]["runs"] >= 10]


def ended(api: TestClient, task_id: str) -> dict[str, Any] | None:
    answer = api.get(f"/v1/tasks/{task_id}")
    run: dict[str, Any] | None = answer.json()["run"] if answer.status_code == 200 else None
    return run if run and run["ended_at"] else None
