"""Results of a batch on a real Redis: one pipeline, the same commands, and nothing held that others wait for."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery, states
from celery.app.task import Context

import celeray
from celeray.scheduler import result_batch
from celeray.scheduler.fencing import LEASE
from celeray.scheduler.settings import Settings

# redis-py says that of what Celery calls to store a result without a fence.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored for having waited too long."""
    monkeypatch.setattr(result_batch, "HOLD_S", 600.0)


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("batches", broker=redis_url, backend=redis_url, set_as_current=False)
    celeray.install(app, Settings(transport="leased"))
    yield app
    app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def request(fence: int | None = None, **fields: Any) -> Context:
    task_id = str(uuid.uuid4())
    info = {} if fence is None else {LEASE: f"{fence}:message-of-{task_id}"}
    return Context({"id": task_id, "task": "t", "delivery_info": info, **fields})


def finish(app: Celery, *requests: Context) -> None:
    """What the tracer does for each, with STARTED on."""
    for each in requests:
        app.backend.store_result(each.id, {"pid": 1}, states.STARTED, request=each)
        app.backend.mark_as_done(each.id, "value", each, True)


def state(app: Celery, task: Context) -> str:
    found: str = app.backend._get_task_meta_for(task.id)["status"]
    return found


def calls(client: Any) -> dict[str, int]:
    return {
        name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()
    }


@pytest.mark.parametrize("fence", [None, 7])
def test_a_batch_is_stored_at_its_end_as_celery_would_have_stored_it(
    app: Celery, client: Any, fence: int | None
) -> None:
    requests = [request(fence) for _ in range(20)]
    (plain,) = [request(fence)]
    finish(app, plain)
    flushed: list[bool] = []
    with client.pubsub() as listening, app.backend.batch(lambda: flushed.append(True)) as batch:
        listening.subscribe(*(app.backend.get_key_for_task(each.id) for each in requests))
        finish(app, *requests)
        assert batch.holds
        assert {state(app, each) for each in requests} == {states.PENDING}
        before = calls(client)
        app.backend.open_batch.flush()
        after = calls(client)
        told = [
            message
            for message in iter(lambda: listening.get_message(timeout=0.2), None)
            if message["type"] == "message"
        ]
    assert flushed
    assert batch.failed == {}
    # The last state alone is written, and told once it can be read.
    assert len(told) == len(requests)
    for each in requests:
        key = app.backend.get_key_for_task(each.id)
        like = app.backend._get_task_meta_for(plain.id)
        assert app.backend._get_task_meta_for(each.id) | {"task_id": 0, "date_done": 0} == like | {
            "task_id": 0,
            "date_done": 0,
        }
        assert abs(client.ttl(key) - client.ttl(app.backend.get_key_for_task(plain.id))) <= 5
    script = "setex" if fence is None else "evalsha"
    assert after[script] - before.get(script, 0) == len(requests)


def test_a_success_is_not_overwritten_and_a_lost_lease_writes_nothing(app: Celery) -> None:
    done, lost = request(), request(5)
    app.backend.mark_as_done(done.id, "first", done, True)
    newer = Context(
        dict(vars(lost)) | {"delivery_info": {LEASE: lost.delivery_info[LEASE].replace("5:", "9:", 1)}}
    )
    app.backend.store_result(newer.id, {"pid": 2}, states.STARTED, request=newer)
    with app.backend.batch(lambda: None) as batch:
        finish(app, done, lost)
    assert batch.failed == {}
    assert app.backend._get_task_meta_for(done.id)["result"] == "first"
    assert state(app, lost) == states.STARTED
    assert lost.celeray_lost is True


@pytest.mark.parametrize("fence", [None, 7])
@pytest.mark.parametrize(
    "fields",
    [
        {"chord": {"task": "t"}},
        {"callbacks": [{"task": "t"}]},
        {"errbacks": [{"task": "t"}]},
        {"chain": [{"task": "t"}]},
    ],
)
def test_what_something_follows_from_is_stored_at_once(
    app: Celery, fields: dict[str, Any], fence: int | None
) -> None:
    each = request(fence, **fields)
    with app.backend.batch(lambda: None) as batch:
        app.backend.store_result(each.id, "value", states.SUCCESS, request=each)
        assert not batch.holds
        assert state(app, each) == states.SUCCESS


def test_a_state_of_the_tasks_own_is_seen_at_once_and_not_overwritten_by_the_started_before_it(
    app: Celery,
) -> None:
    each = request(7)
    with app.backend.batch(lambda: None) as batch:
        app.backend.store_result(each.id, {"pid": 1}, states.STARTED, request=each)
        app.backend.store_result(each.id, {"done": 50}, "PROGRESS", request=each)
        assert state(app, each) == "PROGRESS"
        assert not batch.holds
    assert state(app, each) == "PROGRESS"


def test_a_large_result_is_not_held(app: Celery) -> None:
    each = request(7)
    with app.backend.batch(lambda: None) as batch:
        app.backend.mark_as_done(each.id, os.urandom(200_000).hex(), each, True)
        assert not batch.holds
        assert state(app, each) == states.SUCCESS


def test_a_task_that_takes_too_long_does_not_keep_what_is_held(
    app: Celery, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_batch, "HOLD_S", 0.01)
    ended, running = request(7), request(7)
    said = threading.Event()
    with app.backend.batch(said.set) as batch:
        finish(app, ended)
        app.backend.store_result(running.id, {"pid": 1}, states.STARTED, request=running)
        eventually(lambda: state(app, running) == states.STARTED)
        assert state(app, ended) == states.SUCCESS
        assert said.wait(10)
        assert not batch.holds
    assert state(app, running) == states.STARTED


def test_scripts_that_the_server_forgot_are_loaded_again(app: Celery, client: Any) -> None:
    requests = [request(7) for _ in range(3)]
    client.script_flush()
    with app.backend.batch(lambda: None) as batch:
        finish(app, *requests)
    assert batch.failed == {}
    assert {state(app, each) for each in requests} == {states.SUCCESS}


def test_what_the_server_refuses_fails_that_task_alone(app: Celery, client: Any) -> None:
    broken, sound = request(7), request(7)
    client.set(app.backend.own_keys.fence_record(broken.id), "no hash")
    with app.backend.batch(lambda: None) as batch:
        finish(app, broken, sound)
    assert list(batch.failed) == [broken.id]
    assert state(app, sound) == states.SUCCESS


@pytest.mark.parametrize("fence", [None, 7])
def test_a_full_server_fails_the_tasks_and_not_the_batch(app: Celery, client: Any, fence: int | None) -> None:
    requests = [request(fence), request(fence)]
    with app.backend.batch(lambda: None) as batch:
        finish(app, *requests)
        client.config_set("maxmemory", 1)
        try:
            batch.flush()
        finally:
            client.config_set("maxmemory", 0)
    assert set(batch.failed) == {each.id for each in requests}


def test_without_a_batch_nothing_is_held(app: Celery) -> None:
    each = request(7)
    finish(app, each)
    assert state(app, each) == states.SUCCESS
