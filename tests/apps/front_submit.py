"""Tasks for the app of `front`, for a worker with `-I tests.apps.front_submit`: deduplicated ones, that count runs."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery.exceptions import Ignore, Reject

import celeray
from tests.apps.front import app


def _count(name: str) -> int:
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        return int(client.incr(f"ran:{name}"))  # type: ignore[arg-type]


@app.task(shared=False, name="front.once", deduplicate=True)
def once(name: str, seconds: float = 0.0) -> str:
    _count(name)
    time.sleep(seconds)
    return name


@app.task(
    shared=False,
    name="front.once_an_hour",
    ignore_result=True,
    deduplicate={"key": "{args[0]}", "for_s": 3600, "until": "both"},
)
def once_an_hour(name: str) -> None:
    _count(name)


@app.task(shared=False, name="front.once_early", deduplicate=True, acks_late=False)
def once_early(name: str, seconds: float = 0.0) -> str:
    _count(name)
    time.sleep(seconds)
    return name


@app.task(shared=False, name="front.once_failing", deduplicate=True)
def once_failing(name: str, how: str) -> None:
    _count(name)
    raise {"error": ValueError(name), "reject": Reject(name), "ignore": Ignore(name)}[how]


@app.task(shared=False, name="front.once_retried", bind=True, deduplicate=True, max_retries=3)
def once_retried(self: Any, name: str, seconds: float) -> int:
    """Retries once, with another argument."""
    _count(name)
    if self.request.retries == 0:
        raise self.retry(args=(name, seconds + 0.01), countdown=seconds)
    return int(self.request.retries)


@app.task(shared=False, name="front.once_replaced", bind=True, deduplicate=True)
def once_replaced(self: Any, name: str, seconds: float) -> Any:
    _count(name)
    return self.replace(slow.s(name, seconds))


@app.task(shared=False, name="front.slow")
def slow(name: str, seconds: float) -> str:
    time.sleep(seconds)
    return name


@app.task(shared=False, name="front.add")
def add(one: int, other: int) -> int:
    return one + other


@app.task(shared=False, name="front.batching", bind=True)
def batching(self: Any, count: int) -> list[str]:
    """Ids of a batch that it submits, and its own."""
    found = celeray.submit_batch([add.s(n, n) for n in range(count)], self.app)
    return [*(one.id for one in found.results), self.request.id]


@app.task(shared=False, name="front.short_lived", result_ttl_s=50)
def short_lived(fails: bool = False) -> int:
    if fails:
        raise ValueError("failed")
    return 1
