"""The Celery app of the bridge's integration tests. Broker and results come from Celery's own variables."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task

import celeray
from celeray.actors.simulated import hold

app = Celery(
    "gpu", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND")
)
if timeout := os.environ.get("TEST_VISIBILITY_TIMEOUT"):
    # Looks for messages that were held for too long every second instead of every hundred.
    app.conf.broker_transport_options = {
        "visibility_timeout": float(timeout),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
if lease_s := os.environ.get("TEST_LEASE_S"):
    app.conf.broker_transport_options = {"lease_s": float(lease_s)}
app.conf.worker_pool_restarts = True
celeray.install(app)

SMALL = {"gpu": True, "vram_gb": 4}
WHOLE = {"gpu": True}


def _here() -> dict[str, Any]:
    return {"pid": os.getpid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


@app.task(name="gpu.here", resource_requirements=SMALL)
def here(*_: Any) -> dict[str, Any]:
    """Where it ran."""
    return _here()


@app.task(name="gpu.add", resource_requirements=SMALL)
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="gpu.total", resource_requirements=SMALL)
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="gpu.sleep", resource_requirements=SMALL)
def sleep(seconds: float) -> dict[str, Any]:
    """In short steps, so that a soft time limit reaches it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return _here()


@app.task(name="gpu.whole", resource_requirements=WHOLE)
def whole(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return _here()


@app.task(name="gpu.fail", resource_requirements=SMALL)
def fail(message: str) -> None:
    raise ValueError(message)


@app.task(name="gpu.progress", bind=True, resource_requirements=SMALL)
def progress(self: Task) -> None:
    """Reports a state of its own and stays in it for a while."""
    self.update_state(state="PROGRESS", meta={"done": 50})
    time.sleep(1.0)


@app.task(name="gpu.flaky", bind=True, max_retries=3, resource_requirements=SMALL)
def flaky(self: Task, failures: int) -> dict[str, Any]:
    """Retries itself `failures` times; shows what the last run saw."""
    if self.request.retries < failures:
        raise self.retry(countdown=0.05)
    return {"retries": self.request.retries, "priority": self.request.delivery_info["priority"]}


@app.task(
    name="gpu.auto",
    bind=True,
    autoretry_for=(ValueError,),
    retry_backoff=False,
    default_retry_delay=0.05,
    resource_requirements=SMALL,
)
def auto(self: Task) -> int:
    if self.request.retries < 2:
        raise ValueError("not yet")
    return int(self.request.retries)


@app.task(name="gpu.parent", bind=True, resource_requirements=SMALL)
def parent(self: Task) -> str:
    """Publishes a child, which inherits the priority where the app says so."""
    return str(seen_priority.delay().id)


@app.task(name="gpu.seen_priority", bind=True, resource_requirements=SMALL)
def seen_priority(self: Task, *_: Any) -> int:
    return int(self.request.delivery_info["priority"])


@app.task(name="gpu.fresh", resource_requirements={**SMALL, "isolation": "fresh"})
def fresh() -> dict[str, Any]:
    return _here()


@app.task(name="gpu.on_cpu", resource_requirements={"gpu": False, "cpus": 1})
def on_cpu() -> dict[str, Any]:
    """Work without a device, on a queue of the bridge."""
    return _here()


@app.task(name="gpu.plain")
def plain(x: int) -> int:
    """A task of the CPU workers."""
    return 2 * x


@app.task(name="gpu.counted", bind=True, resource_requirements=SMALL)
def counted(self: Task, seconds: float) -> int:
    """Counts its begins in Redis; returns how many there were."""
    client = self.backend.client
    client.incr(f"begun:{self.request.id}")
    time.sleep(seconds)
    return int(client.get(f"begun:{self.request.id}"))


@app.task(name="gpu.exhaust", resource_requirements=SMALL)
def exhaust() -> None:
    raise MemoryError("not enough")


@app.task(name="gpu.beat", resource_requirements=SMALL)
def beat(key: str, seconds: float) -> int | None:
    """Writes every few milliseconds under its fence that it lives; the clock is the machine's monotonic one."""
    fence = celeray.current_fence()
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            client.hsetnx(f"{key}:begun", str(fence), now)
            client.hset(f"{key}:seen", str(fence), now)
            time.sleep(0.01)
    return fence


@app.task(name="gpu.note", resource_requirements=SMALL)
def note(key: str) -> None:
    """Counts its runs."""
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        client.incr(key)


@app.task(name="gpu.brief", bind=True, resource_requirements=SMALL)
def brief(self: Task, key: str, deed: str = "") -> int:
    """A few milliseconds; counts its runs, and may end its process or raise what can't be read."""
    runs = int(self.backend.client.hincrby(key, self.request.id, 1))
    time.sleep(0.003)
    if deed == "die":
        os.kill(os.getpid(), 9)
    if deed == "unreadable":
        raise UnreadableError("one", "two")
    return runs


class UnreadableError(Exception):
    """Pickles, and can't be read back: its constructor takes two arguments and its args hold one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


@app.task(
    name="gpu.learns",
    resource_requirements={"gpu": True, "vram_gb": 8, "vram_gb_max": 12, "request": "learned"},
)
def learns(mib: int, key: str | None = None) -> dict[str, Any]:
    """Holds so much of its devices, until the key is there."""
    hold(mib)
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        while key is not None and not client.exists(key):
            time.sleep(0.02)
    return _here()


@app.task(name="gpu.logged", resource_requirements={"gpu": True, "vram_gb": 20})
def logged(log: str, name: str, until: str | None = None) -> str:
    """Writes when it begins and ends, and waits for a key in between."""
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        client.rpush(log, f"{name} begins")
        while until is not None and not client.exists(until):
            time.sleep(0.02)
        client.rpush(log, f"{name} ends")
    return name


@app.task(name="gpu.needs", resource_requirements=SMALL)
def needs(key: str, value: int) -> int:
    """Fails until the key is there."""
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        if not client.exists(key):
            raise LookupError(key)
    return value


@app.task(name="gpu.gathered", resource_requirements=SMALL)
def gathered(values: list[int]) -> list[int]:
    """Shows what a chord's body gets."""
    return values
