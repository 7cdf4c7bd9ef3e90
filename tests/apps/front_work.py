"""More tasks for the app of `front`, for a worker with `-I tests.apps.front_work`: they take time, count, or kill."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import redis
from celery.exceptions import Reject

from tests.apps.front import app


@app.task(shared=False, name="front.work", bind=True)
def work(self: Any, counter: str, seconds: float) -> bool:
    """Count that it ran, and take its time."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        client.incr(counter)
    time.sleep(seconds)
    return True


@app.task(shared=False, name="front.echo")
def echo(value: str) -> str:
    """Give back what it got."""
    return value


@app.task(shared=False, name="front.deadly")
def deadly(counter: str) -> None:
    """Kills its process."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        client.incr(counter)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(shared=False, name="front.mortal", bind=True)
def mortal(self: Any, counter: str, deaths: int) -> dict[str, Any]:
    """Kills its process so often; then tells its priority and queue."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        if client.incr(counter) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
    info = self.request.delivery_info
    return {"priority": info["priority"], "queue": info["routing_key"]}


@app.task(shared=False, name="front.picky", bind=True)
def picky(self: Any, counter: str, times: int) -> bool:
    """Rejects its message so often."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        if client.incr(counter) <= times:
            raise Reject("not yet", requeue=True)
    return True


@app.task(shared=False, name="front.ran_at", bind=True, max_retries=None)
def ran_at(self: Any, retry_in_s: float | None = None) -> float:
    """When it ran, after one retry where `retry_in_s` says so."""
    if retry_in_s is not None and not self.request.retries:
        raise self.retry(countdown=retry_in_s)
    return time.time()


@app.task(shared=False, name="front.span")
def span(key: str, seconds: float) -> int:
    """Counts its begins and its ends; returns the number of its begin."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        number = int(client.incr(f"{key}:begun"))
        time.sleep(seconds)
        client.incr(f"{key}:ended")
    return number


@app.task(shared=False, name="front.needs")
def needs(key: str, value: int) -> int:
    """Fails until the key is there."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        if not client.exists(key):
            raise LookupError(key)
    return value


@app.task(shared=False, name="front.total")
def total(numbers: list[int]) -> list[int]:
    """Shows what a chord's body gets."""
    return numbers
