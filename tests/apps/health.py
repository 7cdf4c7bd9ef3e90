"""Tasks on devices of a fake NVML that hold memory until they are let go, and note where each of their runs was."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task

import celeray

URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
app = Celery("health", broker=URL, backend=os.environ.get("CELERY_RESULT_BACKEND", URL))
celeray.install(app)

SMALL = {"gpu": True, "vram_gb": 8, "executor": "health"}
"""One class of executors serves all of them, so that fewer have to start."""


def _hold(mib: int) -> str:
    from tests.fake_nvml import allocate

    device = os.environ["CUDA_VISIBLE_DEVICES"]
    allocate(device, mib)
    return device


def _stay(task_id: str, device: str) -> dict[str, Any]:
    """Note the run, and wait until the key `go:ID` is there."""
    with redis.Redis.from_url(URL) as client:
        client.rpush(f"runs:{task_id}", device)
        while not client.exists(f"go:{task_id}"):
            time.sleep(0.02)
    return {"device": device, "pid": os.getpid()}


@app.task(name="health.stay", bind=True, resource_requirements=SMALL)
def stay(self: Task, mib: int = 0) -> dict[str, Any]:
    """In a warm executor."""
    return _stay(self.request.id, _hold(mib))


@app.task(name="health.once", bind=True, resource_requirements={**SMALL, "isolation": "fresh"})
def once(self: Task, mib: int) -> dict[str, Any]:
    """In a process that ends with it."""
    return _stay(self.request.id, _hold(mib))


@app.task(name="health.here", resource_requirements=SMALL)
def here() -> str:
    """Where it ran."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


@app.task(name="health.whole", resource_requirements={"gpu": True})
def whole() -> str:
    """On a whole device."""
    return os.environ["CUDA_VISIBLE_DEVICES"]
