"""Tasks with a far eta on real workers: they wait in Redis, survive a killed worker, and run when their time comes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from tests.integration.scheduler.transport.conftest import Broker

TIMEOUT_S = 60
BOUND_S = 2
OPTIONS = ("-c", "1", "-Q", "cpu.analysis", "-I", "tests.apps.front_work")
ENVIRONMENT = {"CELERAY_TRANSPORT": "leased", "CELERAY_ETA_IN_MEMORY_S": str(BOUND_S)}


@pytest.fixture
def broker(redis_url: str) -> Any:
    made = Broker(redis_url)
    yield made
    made.client.close()


def send(app: Celery, *args: Any, **options: Any) -> Any:
    return app.send_task("front.ran_at", args, queue="cpu.analysis", **options)


def scheduled(broker: Broker) -> int:
    sizes = {
        broker.client.zcard("celeray:etas"),
        broker.client.hlen("celeray:etas:entries"),
        broker.client.hlen("celeray:etas:messages"),
        broker.client.zcard("celeray:etas:ids"),
        sum(int(count) for count in broker.client.hvals("celeray:etas:lists")),
    }
    # None while a test looks between two of its commands.
    return sizes.pop() if len(sizes) == 1 else -1


@pytest.mark.slow
@pytest.mark.parametrize("far", [40, 10_000])
def test_a_far_eta_waits_in_redis_and_survives_its_worker(
    stock: Celery, start_worker: Any, broker: Broker, eventually: Any, far: int
) -> None:
    worker = start_worker("-P", "prefork", *OPTIONS, **ENVIRONMENT)
    for _ in range(far):
        send(stock, countdown=3600)
    eta = time.time() + 8
    soon = send(stock, countdown=8)
    now = send(stock)
    assert now.get(timeout=TIMEOUT_S) < eta
    eventually(lambda: scheduled(broker) == far + 1 and broker.nothing_held())
    [(_, listed)] = stock.control.inspect(timeout=5).scheduled().items()
    assert len(listed) == min(far + 1, 1_001)
    assert listed[0]["request"]["id"] == soon.id
    assert listed[0]["request"]["name"] == "front.ran_at"
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    start_worker("-P", "prefork", *OPTIONS, **ENVIRONMENT)
    assert soon.get(timeout=TIMEOUT_S) >= eta - 0.1
    eventually(lambda: scheduled(broker) == far and broker.nothing_held())


def test_revoke_expiry_and_retry_of_what_is_scheduled(
    front: Celery, stock: Celery, start_worker: Any, broker: Broker, eventually: Any
) -> None:
    start_worker("-P", "solo", *OPTIONS, **ENVIRONMENT)
    revoked, expired = send(stock, countdown=3600), send(stock, countdown=6, expires=3)
    retried = send(stock, 5)
    eventually(lambda: scheduled(broker) == 3)
    stock.control.revoke(revoked.id)
    # Ended now, and not in an hour, when nobody knew any more that it was revoked.
    eventually(lambda: scheduled(broker) <= 2 and broker.nothing_held())
    with pytest.raises(TaskRevokedError, match="revoked"):
        revoked.get(timeout=TIMEOUT_S)
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=TIMEOUT_S)
    assert retried.get(timeout=TIMEOUT_S)
    eventually(lambda: scheduled(broker) == 0 and broker.nothing_held())
    assert broker.client.zscore("celeray:revoked", revoked.id)
