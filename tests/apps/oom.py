"""The Celery app of the tests of GPU memory that runs out. Its devices are simulated, and run out as real ones do."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task, signals

import celeray
from celeray.actors import simulated

app = Celery(
    "oom", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND")
)
app.conf.worker_send_task_events = True
app.conf.task_track_started = True
celeray.install(app)

GIB = 1024
EIGHT = {"gpu": True, "vram_gb": 8}


def store() -> redis.Redis:
    return redis.Redis.from_url(os.environ["CELERY_BROKER_URL"], decode_responses=True)


def note(task_id: str) -> int:
    """Add what is reserved for this run to what its task had so far; returns it, in MiB."""
    had = int(os.environ[simulated.MOST_VARIABLE])
    with store() as client:
        client.rpush(f"had:{task_id}", f"{had}@{os.getpid()}")
    return had


@signals.task_failure.connect
def failed(task_id: str, **_: Any) -> None:
    with store() as client:
        client.incr(f"failures:{task_id}")


@app.task(name="oom.render", bind=True, resource_requirements=EIGHT)
def render(self: Task, gib: int, *_: Any) -> dict[str, Any]:
    """Needs so much, whatever it asked for."""
    note(self.request.id)
    simulated.hold(gib * GIB)
    simulated.hold(0)
    return {"retries": self.request.retries, "devices": os.environ["CUDA_VISIBLE_DEVICES"]}


@app.task(name="oom.auto", bind=True, autoretry_for=(Exception,), max_retries=1, resource_requirements=EIGHT)
def auto(self: Task, gib: int) -> int:
    """As `render`, in torch's words, and with Celery's own retries for whatever it raises."""
    if note(self.request.id) < gib * GIB:
        try:
            raise RuntimeError(
                f"CUDA out of memory. Tried to allocate {gib}.00 GiB. GPU 0 has a total capacity of"
            )
        except RuntimeError as error:
            raise ValueError("no picture") from error
    return int(self.request.retries)


@app.task(name="oom.bounded", bind=True, resource_requirements={**EIGHT, "vram_gb_max": 12})
def bounded(self: Task) -> None:
    """Never has enough."""
    note(self.request.id)
    raise celeray.OutOfGpuMemoryError("not enough")


@app.task(name="oom.fresh", bind=True, resource_requirements={**EIGHT, "isolation": "fresh"})
def fresh(self: Task, gib: int) -> int:
    note(self.request.id)
    simulated.hold(gib * GIB)
    return os.getpid()


@app.task(name="oom.deadly", bind=True, resource_requirements=EIGHT)
def deadly(self: Task) -> None:
    """Runs out of memory first, and kills its process when it has more."""
    if note(self.request.id) > 8 * GIB:
        os.kill(os.getpid(), 9)
    raise celeray.OutOfGpuMemoryError("not enough")


@app.task(name="oom.neighbour", resource_requirements={"gpu": True, "vram_gb": 2})
def neighbour(until: str) -> int:
    """Holds what it asked for until it is told to end; returns how often it ran."""
    simulated.hold(2 * GIB)
    with store() as client:
        runs = int(client.incr(f"{until}:{os.getpid()}"))
        client.incr(f"{until}:runs")
        while not client.get(until):
            time.sleep(0.02)
    return runs


@app.task(name="oom.brief", bind=True, resource_requirements={"gpu": True, "vram_gb": 13})
def brief(self: Task, gib: int = 0) -> int:
    """A few milliseconds, on one executor: two have no room."""
    time.sleep(0.003)
    if gib:
        note(self.request.id)
        simulated.hold(gib * GIB)
        simulated.hold(0)
    return gib


@app.task(name="oom.told")
def told(request: Any, exc: BaseException, traceback: Any) -> None:
    """An errback; by its arguments Celery calls it where the task failed."""
    with store() as client:
        client.incr(f"told:{request.id}")
