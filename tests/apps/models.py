"""Tasks whose executor loads a model in its first run, and tasks that fill devices for a while."""

from __future__ import annotations

import json
import os
import time

import redis
from celery import Celery

import celeray

URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
NOTES = "models:notes"
LOAD_S = 1.0

app = Celery("models", broker=URL, backend=os.environ.get("CELERY_RESULT_BACKEND", URL))
celeray.install(app)
_loaded: set[str] = set()


def _note(task: str, begin: float, *, loaded: bool = False) -> None:
    note = {
        "task": task,
        "begin": begin,
        "end": time.monotonic(),
        "loaded": loaded,
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","),
    }
    with redis.Redis.from_url(URL) as client:
        client.rpush(NOTES, json.dumps(note))


def _infer(name: str, seconds: float) -> None:
    begin, cold = time.monotonic(), name not in _loaded
    if cold:
        time.sleep(LOAD_S)
        _loaded.add(name)
    time.sleep(seconds)
    _note(name, begin, loaded=cold)


@app.task(name="models.one", resource_requirements={"vram_gb": 10, "gpu_type": "L4"})
def one(seconds: float) -> None:
    """One of two models that fit on a card together."""
    _infer("one", seconds)


@app.task(name="models.two", resource_requirements={"vram_gb": 11, "gpu_type": "L4"})
def two(seconds: float) -> None:
    """The other."""
    _infer("two", seconds)


@app.task(name="models.wide_one", resource_requirements={"gpu": 2, "vram_gb": 20, "gpu_type": "L4"})
def wide_one(seconds: float) -> None:
    """One of two models of which the cluster has room for one."""
    _infer("wide_one", seconds)


@app.task(name="models.wide_two", resource_requirements={"gpu": 2, "vram_gb": 21, "gpu_type": "L4"})
def wide_two(seconds: float) -> None:
    """The other."""
    _infer("wide_two", seconds)


@app.task(name="models.fill", resource_requirements={"vram_gb": 20})
def fill(seconds: float) -> None:
    """Takes the best part of a device for a while."""
    begin = time.monotonic()
    time.sleep(seconds)
    _note("fill", begin)


@app.task(name="models.gang", resource_requirements={"gpu": 4, "vram_gb": 20})
def gang() -> None:
    """Needs four devices of one node."""
    _note("gang", time.monotonic())
