"""Plain workers on the leased transport: nothing is fetched that could not begin, and paused queues are left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from celery import Celery

pytestmark = pytest.mark.unmeasured

TIMEOUT_S = 60.0
MORE = ("-I", "tests.apps.front_work", "--prefetch-multiplier", "4")
QUEUE = "cpu.analysis"
LIST = f"{QUEUE}\x06\x165"


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def send(front: Celery, name: str, *args: Any, **options: Any) -> Any:
    return front.send_task(f"front.{name}", args, queue=QUEUE, **options)


def pause(client: Any) -> None:
    client.hset("celeray:paused", QUEUE, json.dumps({"by": "t", "at": 1.0, "why": "w"}))


def start(start_worker: Any, pool: str, *more: str) -> Any:
    return start_worker("-P", pool, "-c", "2", "-Q", QUEUE, *MORE, *more, CELERAY_TRANSPORT="leased")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_only_what_can_begin_is_held_and_the_most_urgent_is_next(
    front: Celery, start_worker: Any, client: Any, eventually: Any, pool: str
) -> None:
    start(start_worker, pool)
    sent = [send(front, "work", f"begun:{number}", 1.0) for number in range(6)]
    eventually(lambda: client.exists("begun:1"))
    # With kombu's credit, concurrency x multiplier, it would hold all six.
    assert (client.hlen("unacked"), client.llen(LIST)) == (2, 4)
    urgent = send(front, "work", "begun:urgent", 0.0, priority=10)
    assert urgent.get(timeout=TIMEOUT_S)
    assert client.exists("begun:0", "begun:1", "begun:2", "begun:3", "begun:4") <= 4
    for item in sent:
        assert item.get(timeout=TIMEOUT_S)
    eventually(lambda: not client.hlen("unacked"))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_pause_is_honoured_and_what_has_not_begun_goes_back(
    front: Celery, start_worker: Any, client: Any, eventually: Any, pool: str
) -> None:
    start(start_worker, pool)
    running = send(front, "work", "running", 1.5)
    soon = send(front, "work", "soon", 0.0, countdown=4)
    eventually(lambda: client.exists("running") and client.hlen("unacked") == 2)
    pause(client)
    # The one that waits for its time in the worker goes back; the one that runs goes on to its end.
    eventually(lambda: client.llen(LIST) == 1)
    assert running.get(timeout=TIMEOUT_S)
    waiting = send(front, "work", "waiting", 0.0)
    eventually(lambda: client.hlen("unacked") == 0)
    assert client.llen(LIST) == 2
    assert not client.exists("waiting")
    client.hdel("celeray:paused", QUEUE)
    assert waiting.get(timeout=TIMEOUT_S)
    assert soon.get(timeout=TIMEOUT_S)
    assert (client.get("running"), client.get("soon"), client.get("waiting")) == (b"1", b"1", b"1")


def test_a_rate_limited_task_goes_back_from_its_bucket(
    front: Celery, start_worker: Any, client: Any, eventually: Any
) -> None:
    start(start_worker, "threads")
    front.control.rate_limit("front.work", "1/h", reply=True, timeout=5)
    for number in range(3):
        send(front, "work", f"rated:{number}", 0.0)
    eventually(lambda: client.hlen("unacked") == 2)
    pause(client)
    eventually(lambda: client.hlen("unacked") == 0)
    tags = [json.loads(entry)["headers"]["argsrepr"] for entry in reversed(client.lrange(LIST, 0, -1))]
    assert [text.split("'")[1] for text in tags] == ["rated:1", "rated:2"]


def test_a_worker_that_starts_later_honours_the_pause(
    front: Celery, start_worker: Any, client: Any, eventually: Any
) -> None:
    pause(client)
    sent = send(front, "work", "later", 0.0)
    start(start_worker, "solo")
    assert client.llen(LIST) == 1
    client.delete("celeray:paused")
    assert sent.get(timeout=TIMEOUT_S)
