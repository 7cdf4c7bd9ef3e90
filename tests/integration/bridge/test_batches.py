"""Short tasks in batches on a real Ray: what one of them does is its own affair."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery, chord
from celery.exceptions import TaskRevokedError

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
TIMEOUT_S = 90
LEARNED_AFTER = 45
"""Runs after which the first one, which loads the app, counts for little in the mean."""


@pytest.fixture(scope="module")
def bridge(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBridge]:
    """One executor's room, so that there is a backlog."""
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    # On a busy machine what takes 4 ms by itself takes longer.
    env = {"CELERAY_TRANSPORT": "leased", "CELERAY_BATCH_SHORT_S": "0.03"}
    bridge = LiveBridge(url, tmp_path_factory.mktemp("batches"), gpus="1x4GiB", name="batch", env=env).start()
    results = [application(url).tasks["gpu.brief"].delay("warm-up") for _ in range(LEARNED_AFTER)]
    assert [result.get(timeout=TIMEOUT_S) for result in results] == [1] * LEARNED_AFTER
    yield bridge
    bridge.stop()


@pytest.fixture
def app(bridge: LiveBridge) -> Celery:
    return application(bridge.url)


@pytest.fixture
def runs(bridge: LiveBridge) -> Iterator[Any]:
    """How often each task of this test ran, by task id, under the key that `str` gives."""
    key = f"runs-{uuid.uuid4()}"
    with redis.Redis.from_url(bridge.url, decode_responses=True) as client:

        class Runs:
            def __str__(self) -> str:
                return key

            def of(self, result: Any) -> int:
                return int(client.hget(key, result.id) or 0)  # type: ignore[arg-type]

            def parked(self) -> int:
                return int(client.hlen("celeray:parked"))  # type: ignore[arg-type]

        yield Runs()


def publish(app: Celery, runs: Any, *deeds: str) -> list[Any]:
    return [app.tasks["gpu.brief"].delay(str(runs), deed) for deed in deeds]


def test_many_run_in_one_call_and_each_once(app: Celery, bridge: LiveBridge, runs: Any) -> None:
    results: list[Any] = []

    def together() -> bool:
        # A hundred may be over before the worker answers, so each look comes with more of them.
        results.extend(publish(app, runs, *[""] * 100))
        active = app.control.inspect([bridge.node], timeout=1, limit=1).active() or {}
        return len(active.get(bridge.node, ())) > 1

    until(together, "several tasks are with the one executor")
    assert [result.get(timeout=TIMEOUT_S) for result in results] == [1] * len(results)
    assert [runs.of(result) for result in results] == [1] * len(results)


def test_an_outcome_that_can_not_be_read_fails_one_task(app: Celery, runs: Any) -> None:
    deeds = [""] * 30
    deeds[10] = "unreadable"
    results = publish(app, runs, *deeds)
    bad = results.pop(10)
    assert [result.get(timeout=TIMEOUT_S) for result in results] == [1] * 29
    until(bad.ready, "it has failed")
    assert bad.state == "FAILURE"
    assert runs.of(bad) == 1


def test_a_task_that_kills_its_executor_is_parked_alone(app: Celery, runs: Any) -> None:
    deeds = [""] * 60
    deeds[30] = "die"
    before = runs.parked()
    results = publish(app, runs, *deeds)
    poison = results.pop(30)
    values = [result.get(timeout=TIMEOUT_S) for result in results]
    until(lambda: runs.parked() == before + 1, "the poison is parked", TIMEOUT_S)
    assert runs.of(poison) == 3
    assert set(values) <= {1, 2}, "a run whose result was not stored yet is repeated"
    assert sum(value == 2 for value in values) <= 20
    assert publish(app, runs, "")[0].get(timeout=TIMEOUT_S) == 1


def test_terminating_one_leaves_the_others(app: Celery, runs: Any) -> None:
    results = publish(app, runs, *[""] * 200)
    until(lambda: runs.of(results[60]), "they run")
    victim = results[120]
    app.control.revoke(victim.id, terminate=True, signal="SIGKILL")
    others = [result for result in results if result is not victim]
    assert {result.get(timeout=TIMEOUT_S) for result in others} <= {1, 2}
    try:
        assert victim.get(timeout=TIMEOUT_S) == 1, "it was over before"
    except TaskRevokedError:
        assert runs.of(victim) <= 1


def test_a_chord_of_short_tasks_sees_all_results(app: Celery, runs: Any) -> None:
    brief, total = app.tasks["gpu.brief"], app.tasks["gpu.total"]
    result = chord([brief.s(str(runs)) for _ in range(30)], total.s()).delay()
    assert result.get(timeout=TIMEOUT_S) == 30
