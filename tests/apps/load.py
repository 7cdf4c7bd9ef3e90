"""Tasks that hold VRAM of a fake NVML as a framework would, and note what they see."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import redis
from celery import Celery, Task

import celeray

URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
NOTES = "load:notes"
BEGUN = "load:begun"

app = Celery("load", broker=URL, backend=os.environ.get("CELERY_RESULT_BACKEND", URL))
celeray.install(app)


def _devices() -> list[str]:
    return [uuid for uuid in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]


def _allocate(mib: int) -> None:
    from tests.fake_nvml import allocate

    for uuid in _devices():
        allocate(uuid, mib)


class Using(Task):
    """Holds `mib` MiB on each of its devices from its first run on, as a loaded model does."""

    abstract = True
    mib = 0


def use(self: Using, seconds: float) -> None:
    """Note begin, end and devices on the clock that all processes of a host share."""
    begin = time.monotonic()
    _allocate(self.mib)
    time.sleep(seconds)
    note = {
        "task": self.name,
        "mib": self.mib,
        "pid": os.getpid(),
        "devices": _devices(),
        "begin": begin,
        "end": time.monotonic(),
    }
    with redis.Redis.from_url(URL) as client:
        client.rpush(NOTES, json.dumps(note))


def _declare(name: str, mib: int, **requirements: Any) -> Any:
    wanted = {"vram_mb": mib, **requirements}
    return app.task(
        use, name=f"load.{name}", bind=True, base=Using, mib=mib, resource_requirements=wanted, shared=False
    )


tiny = _declare("tiny", 3 * 1024)
small = _declare("small", 7 * 1024)
middle = _declare("middle", 11 * 1024)
large = _declare("large", 20 * 1024)
pair = _declare("pair", 9 * 1024, gpu=2)
alone = _declare("alone", 15 * 1024, exclusive=True)


@app.task(name="load.together", bind=True, resource_requirements={"vram_gb": 12})
def together(self: Task, number: int, deadline_s: float) -> list[str]:
    """Ends when `number` of its kind have begun, so that all run at the same time."""
    end = time.monotonic() + deadline_s
    with redis.Redis.from_url(URL) as client:
        client.sadd(BEGUN, self.request.id)
        while client.scard(BEGUN) < number and time.monotonic() < end:  # type: ignore[operator]
            time.sleep(0.05)
        if client.scard(BEGUN) < number:  # type: ignore[operator]
            raise TimeoutError(f"not {number} at the same time within {deadline_s} s")
    return _devices()


@app.task(name="load.all_cpus", resource_requirements={"vram_gb": 1, "cpus": 8})
def all_cpus() -> list[str]:
    return _devices()
