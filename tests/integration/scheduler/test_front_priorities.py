"""Priorities at both ends of a real Redis: what the producer meant is what the running task sees."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

pytestmark = pytest.mark.unmeasured

TIMEOUT_S = 60
STEP = "\x06\x16"


def test_each_priority_has_a_list_and_the_most_urgent_is_first(front: Celery, redis_url: str) -> None:
    seen = front.tasks["front.seen"]
    for priority in (5, 1, 10, 3, 7):
        seen.apply_async(priority=priority)
    with redis.Redis.from_url(redis_url) as client:
        keys = {f"cpu.analysis{STEP}{10 - priority}" for priority in (5, 1, 3, 7)} | {"cpu.analysis"}
        assert {key.decode() for key in client.keys("cpu.analysis*")} == keys
    with front.connection_for_read() as connection:
        channel = connection.default_channel
        fetched = [
            channel.basic_get("cpu.analysis", no_ack=True).headers["celeray_priority"] for _ in range(5)
        ]
    assert fetched == [10, 7, 5, 3, 1]


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_the_running_task_sees_it(front: Celery, stock: Celery, start_worker: Any, pool: str) -> None:
    start_worker("-P", pool, "-c", "1", "-Q", "cpu.analysis,priority")
    seen, retried = front.tasks["front.seen"], front.tasks["front.retried"]
    sent = {priority: seen.apply_async(priority=priority) for priority in range(1, 11)}
    assert {priority: result.get(timeout=TIMEOUT_S)["priority"] for priority, result in sent.items()} == {
        priority: priority for priority in range(1, 11)
    }
    flagged = {"user_initiated": True}
    assert retried.apply_async((3,), priority=6, headers=flagged).get(timeout=TIMEOUT_S) == [8, 3]
    assert retried.apply_async((3,), priority=10).get(timeout=TIMEOUT_S) == [10, 3]
    assert retried.apply_async((2,)).get(timeout=TIMEOUT_S) == [5, 2]


def test_stock_producers_mean_what_they_mean(front: Celery, stock: Celery, start_worker: Any) -> None:
    start_worker("-P", "threads", "-c", "2", "-Q", "cpu.analysis")
    unset = stock.send_task("front.retried", (2,), queue="cpu.analysis")
    assert unset.get(timeout=TIMEOUT_S) == [5, 2]
    three = stock.send_task("front.retried", (2,), queue="cpu.analysis", priority=3)
    assert three.get(timeout=TIMEOUT_S) == [7, 2]


@pytest.mark.parametrize("inherit", ["0", "1"])
def test_chains_and_children(front: Celery, start_worker: Any, inherit: str) -> None:
    start_worker("-P", "threads", "-c", "4", "-Q", "cpu.analysis", FRONT_INHERIT=inherit)
    seen, parent = front.tasks["front.seen"], front.tasks["front.parent"]
    inherited = inherit == "1"

    def of(task_id: str) -> int:
        return int(front.AsyncResult(task_id).get(timeout=TIMEOUT_S)["priority"])

    first_9 = chain(seen.s().set(priority=9), seen.s(), seen.s())
    assert first_9.apply_async().get(timeout=TIMEOUT_S)["priority"] == (9 if inherited else 5)
    second_2 = chain(seen.s(), seen.s().set(priority=2))
    assert second_2.apply_async().get(timeout=TIMEOUT_S)["priority"] == (5 if inherited else 2)
    header = group(seen.s().set(priority=8) for _ in range(2))
    body = chord(header, seen.s().set(priority=3)).apply_async().get(timeout=TIMEOUT_S)
    assert body["priority"] in ({8, 3} if inherited else {3})

    # A replacement has the priority of its signature, in Celery as here.
    replaced = front.tasks["front.replaced"].apply_async(priority=9).get(timeout=TIMEOUT_S)
    assert replaced["priority"] == (9 if inherited else 5)
    assert of(parent.apply_async(priority=9).get(timeout=TIMEOUT_S)) == (9 if inherited else 5)
    flags = {"user_initiated": True}
    child = parent.apply_async((flags,), priority=6, headers=flags).get(timeout=TIMEOUT_S)
    # Inherited, the bonus is in it already; else the child's own flag lifts the default.
    assert of(child) == (8 if inherited else 7)
