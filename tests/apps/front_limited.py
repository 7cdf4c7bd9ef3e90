"""Limited tasks for the app of `front`, for a worker with `-I tests.apps.front_limited`: each notes when it ran."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import redis

from tests.apps.front import app

NOTES = "notes"
if seconds := os.environ.get("FRONT_LEASE_S"):
    app.conf.broker_transport_options = {"lease_s": float(seconds)}


def note(what: str, task_id: str, **more: Any) -> None:
    """By the clock of the one Redis."""
    with redis.Redis.from_url(os.environ["FRONT_REDIS_URL"]) as client:
        whole, micros = client.time()  # type: ignore[misc]
        line = {"what": what, "id": task_id, "at": whole + micros / 1e6, "pid": os.getppid(), **more}
        client.rpush(NOTES, json.dumps(line))


@app.task(shared=False, name="limited.few", bind=True, limits={"concurrency": 2})
def few(self: Any, seconds: float) -> bool:
    note("begin", self.request.id)
    time.sleep(seconds)
    note("end", self.request.id)
    return True


@app.task(shared=False, name="limited.paced", bind=True, limits={"rate": "20/s"})
def paced(self: Any) -> bool:
    note("begin", self.request.id)
    return True


@app.task(shared=False, name="limited.alone", bind=True, limits={"concurrency": 1, "key": "kwargs.user"})
def alone(self: Any, user: str, ending: str = "good") -> bool:
    """One at a time for each user, and with an ending of each kind."""
    note("begin", self.request.id, user=user)
    if ending == "slow":
        time.sleep(60)
    time.sleep(0.1)
    note("end", self.request.id, user=user)
    if ending == "bad":
        raise ValueError("on purpose")
    if ending == "again" and not self.request.retries:
        raise self.retry(countdown=0)
    return True
