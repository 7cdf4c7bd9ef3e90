"""A plain worker of an installed app: what it consumes, what it passes on, what it answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis
from celery import Celery

from celeray.scheduler.errors import RequirementError

pytestmark = pytest.mark.unmeasured

TIMEOUT_S = 60
STEP = "\x06\x16"


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def test_the_priority_queue_is_shared(
    front: Celery, stock: Celery, start_worker: Any, client: Any, eventually: Any
) -> None:
    start_worker("-P", "prefork", "-c", "1", "-Q", "cpu.analysis,priority")
    flagged = {"priority_task": True}
    here = front.tasks["front.seen"].apply_async(headers=flagged)
    assert here.get(timeout=TIMEOUT_S) == {"priority": 5, "queue": "priority", "retries": 0}

    declared = front.tasks["front.generate_image"].apply_async(headers=flagged, priority=2)
    by_name = stock.send_task("front.generate_image", queue="priority", ignore_result=True)
    asked = front.tasks["front.seen"].apply_async(
        headers={**flagged, "resource_requirements": {"vram_gb": 2}}
    )
    eventually(lambda: client.llen("gpu.generation") == 2 and client.llen("gpu.processing") == 1)
    moved = [json.loads(item) for item in client.lrange("gpu.generation", 0, -1)]
    moved += [json.loads(item) for item in client.lrange("gpu.processing", 0, -1)]
    assert {item["headers"]["id"] for item in moved} == {declared.id, by_name.id, asked.id}
    assert {item["headers"]["celeray_priority"] for item in moved} == {10}
    eventually(lambda: client.hlen("unacked") == 0 and client.zcard("unacked_index") == 0)
    # The worker goes on.
    assert front.tasks["front.seen"].apply_async().get(timeout=TIMEOUT_S)["queue"] == "cpu.analysis"
    assert front.control.inspect(timeout=5).reserved() == {"front0@localhost": []}


def test_without_a_choice_of_queues_it_leaves_the_gpu_queues_alone(
    front: Celery, start_worker: Any, client: Any
) -> None:
    start_worker("-P", "solo")
    [queues] = front.control.inspect(timeout=5).active_queues().values()
    assert {queue["name"] for queue in queues} == {"cpu.analysis", "cpu.thumbnail", "io.storage", "priority"}
    front.tasks["front.generate_image"].apply_async()
    assert front.tasks["front.seen"].apply_async().get(timeout=TIMEOUT_S)
    assert client.llen(f"gpu.generation{STEP}5") == 1
    names = [key.decode() for key in client.keys("_kombu.binding.*")]
    assert [name for name in names if "pidbox" not in name and "celeryev" not in name] == []


def test_a_bad_requirement_of_a_stock_producer_ends_its_task(
    front: Celery, stock: Celery, start_worker: Any, client: Any, eventually: Any
) -> None:
    start_worker("-P", "threads", "-c", "1", "-Q", "cpu.analysis,priority")
    for queue in ("cpu.analysis", "priority"):
        bad = {"resource_requirements": {"vram_gb": "12 elephants"}}
        sent = stock.send_task("front.seen", queue=queue, headers=bad)
        with pytest.raises(RequirementError, match="vram_gb='12 elephants'"):
            front.AsyncResult(sent.id).get(timeout=TIMEOUT_S)
    eventually(lambda: client.hlen("unacked") == 0)
    assert front.tasks["front.seen"].apply_async().get(timeout=TIMEOUT_S)


def test_values_and_large_results(front: Celery, stock: Celery, start_worker: Any, client: Any) -> None:
    start_worker("-P", "solo", "-Q", "cpu.analysis")
    kind, repeat = front.tasks["front.kind"], front.tasks["front.repeat"]
    for value in (datetime.now(UTC), Decimal(1), UUID(int=1), b"\x00\xff", 2**70, {1: 2}):
        assert kind.delay(value).get(timeout=TIMEOUT_S) == type(value).__name__
    small, large = repeat.delay("x", 1000), repeat.delay("celeray", 100_000)
    assert small.get(timeout=TIMEOUT_S) == "x" * 1000
    assert large.get(timeout=TIMEOUT_S) == "celeray" * 100_000
    assert client.get(f"celery-task-meta-{small.id}").startswith(b"{")
    assert client.strlen(f"celery-task-meta-{large.id}") < 10_000
    # A reader without celeray.
    assert stock.AsyncResult(large.id).get(timeout=TIMEOUT_S) == "celeray" * 100_000
    assert 0 < client.ttl(f"celery-task-meta-{small.id}") <= 3600
