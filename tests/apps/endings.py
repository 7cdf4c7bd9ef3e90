"""A Celery app whose tasks end in every way there is. Broker and results come from Celery's own variables."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

import celeray

app = Celery(
    "endings", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND")
)
app.conf.celeray_retry_policies = {
    "ends.*_retried": "quick",
    "ends.never_*": "picky",
    "ends.patient*": "patient",
}
app.conf.celeray_custom_retry_policies = {
    # What is due at once is sent by hand, or when leases are renewed.
    "quick": {"kind": "constant", "base_s": 0, "max_attempts": 3},
    "patient": {"kind": "constant", "base_s": 3600, "jitter": 0, "max_attempts": 2},
    "picky": {"kind": "constant", "base_s": 0, "max_attempts": 3, "never": ["LookupError"]},
}
if lease_s := os.environ.get("TEST_LEASE_S"):
    app.conf.broker_transport_options = {"lease_s": float(lease_s)}
celeray.install(app)

HERE = {"gpu": True, "vram_gb": 1, "executor": "ends"}
"""On the bridge all of them share one process; a plain worker runs them without a device."""


def _task(name: str, **options: Any) -> Any:
    return app.task(shared=False, name=f"ends.{name}", resource_requirements=HERE, **options)


@_task("well")
def well() -> str:
    return "well"


@_task("gather")
def gather(parts: list[Any]) -> list[Any]:
    return parts


@_task("fails")
def fails(text: str) -> None:
    raise ValueError(text)


@_task("fails_retried")
def fails_retried(text: str) -> None:
    raise ValueError(text)


@_task("recovers_retried", bind=True)
def recovers_retried(self: Any, failures: int) -> int:
    """Fails so often; returns how many retries it sees, which are Celery's own."""
    client = app.backend.client
    if client.incr(f"ran:{self.request.id}") <= failures:
        raise ValueError("not yet")
    return int(self.request.retries)


@_task("recovers_failing", bind=True)
def recovers_failing(self: Any, failures: int) -> int:
    """As `recovers_retried`; no policy retries it."""
    if app.backend.client.incr(f"ran:{self.request.id}") <= failures:
        raise ValueError("not yet")
    return int(self.request.retries)


@_task("patient", bind=True)
def patient(self: Any, failures: int) -> int:
    """Fails so often; returns how many retries it sees."""
    if app.backend.client.incr(f"ran:{self.request.id}") <= failures:
        raise ValueError("not yet")
    return int(self.request.retries)


@_task("patient_sleeps")
def patient_sleeps(seconds: float) -> None:
    time.sleep(seconds)


@_task("patient_dies", reject_on_worker_lost=False)
def patient_dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@_task("never_key")
def never_key() -> None:
    raise KeyError("final at once")


@_task("celery_retry", bind=True, max_retries=2)
def celery_retry(self: Any) -> int:
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@_task("autoretry", autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0, max_retries=1)
def autoretry() -> None:
    raise ValueError("autoretried")


@_task("ignores")
def ignores() -> None:
    raise Ignore("no more of it")


@_task("rejects")
def rejects(requeue: bool) -> None:
    raise Reject("bad luck", requeue=requeue)


@_task("sleeps")
def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@_task("sleeps_retried")
def sleeps_retried(seconds: float) -> None:
    time.sleep(seconds)


@_task("runs_out")
def runs_out() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB (GPU 0; 1.00 GiB total capacity)")


@_task("exhausts")
def exhausts() -> None:
    raise MemoryError("out of it")


@_task("dies", reject_on_worker_lost=False)
def dies() -> None:
    """Its message is acknowledged when its process is gone."""
    os.kill(os.getpid(), signal.SIGKILL)


@_task("dies_retried", reject_on_worker_lost=False)
def dies_retried() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


DEVOURED_MOST_MIB = 4096
"""So that a task without a memory limit ends by itself, long before its machine has none left."""


def _devour() -> None:
    # Of ones, since pages of zeros are not taken before they are written.
    held = [b"\x01" * (16 * 1024 * 1024) for _ in range(DEVOURED_MOST_MIB // 16)]
    raise RuntimeError(f"{16 * len(held)} MiB were there")


@_task("devours", reject_on_worker_lost=False)
def devours() -> None:
    """Takes memory until the kernel ends its process."""
    _devour()


@_task("devours_retried", reject_on_worker_lost=False)
def devours_retried() -> None:
    _devour()


@_task("stays", reject_on_worker_lost=False)
def stays(seconds: float) -> None:
    """Its message is acknowledged when its node is gone."""
    time.sleep(seconds)


@_task("poisons")
def poisons() -> None:
    """Its message is requeued when its process is gone."""
    os.kill(os.getpid(), signal.SIGKILL)


@_task("fails_early", acks_late=False)
def fails_early(text: str) -> None:
    raise ValueError(text)


@_task("fails_early_retried", acks_late=False)
def fails_early_retried(text: str) -> None:
    raise ValueError(text)


@_task("errback")
def errback(request: Any, error: Any, traceback: Any) -> None:
    """Counts its calls by the task's id."""
    app.backend.client.incr(f"errback:{request.id}")


@_task("mixed", bind=True)
def mixed(self: Any, kind: str) -> str:
    """Ends well, badly, or with its process."""
    if kind == "bad":
        raise ValueError(kind)
    if kind == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return kind


@_task("mixed_retried", bind=True)
def mixed_retried(self: Any) -> None:
    raise ValueError("always")
