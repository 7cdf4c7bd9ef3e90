"""A small Celery app that executors of the tests load. Broker and results come from the environment."""

from __future__ import annotations

import atexit
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown

app = Celery("simple", broker=os.environ.get("SIMPLE_BROKER_URL", "memory://"))
app.conf.result_backend = os.environ.get("SIMPLE_RESULT_BACKEND", "cache+memory://")
app.conf.accept_content = ["json"]


initialised: list[str] = []
"""Senders of worker_process_init in this process."""


@worker_process_init.connect
def on_init(sender: str, **_: Any) -> None:
    initialised.append(sender)


@worker_process_shutdown.connect
def on_shutdown(exitcode: int, **_: Any) -> None:
    if path := os.environ.get("SIMPLE_SHUTDOWN_FILE"):
        Path(path).write_text(str(exitcode))


class UnreadableError(Exception):
    """Pickles, and can't be read back: its constructor takes two arguments and its args hold one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


@app.task(name="simple.noop")
def noop(*args: Any) -> None:
    """Nothing."""


@app.task(name="simple.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="simple.where", bind=True)
def where(self: Any) -> dict[str, Any]:
    """What the process sees of its place."""
    return {
        "pid": os.getpid(),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "cwd": os.getcwd(),
        "hostname": self.request.hostname,
        "initialised": len(initialised),
    }


@app.task(name="simple.sleep")
def sleep(seconds: float) -> str:
    """In short steps; says when a soft time limit reached it."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "soft limit"
    return "slept"


@app.task(name="simple.fail")
def fail(message: str) -> None:
    raise ValueError(message)


@app.task(name="simple.unreadable")
def unreadable() -> None:
    raise UnreadableError("one", "two")


@app.task(name="simple.leave")
def leave(code: int) -> None:
    raise SystemExit(code)


@app.task(name="simple.exhaust")
def exhaust() -> None:
    raise MemoryError("too much")


@app.task(name="simple.die")
def die() -> None:
    """End the process as the kernel would."""
    os.kill(os.getpid(), 9)


@app.task(name="simple.hold")
def hold(mib: int) -> None:
    """Change what this process holds of its simulated devices."""
    from celeray.actors.simulated import hold as hold_simulated

    hold_simulated(mib)


@app.task(name="simple.stubborn")
def stubborn(seconds: float) -> None:
    """In short steps; knows nothing of time limits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@app.task(name="simple.allocate")
def allocate(uuid: str, mib: int) -> None:
    """Take memory of a device of the fake NVML library."""
    from tests.fake_nvml import allocate as allocate_fake

    allocate_fake(uuid, mib)


@app.task(name="simple.spike")
def spike(uuid: str, mib: int, seconds: float) -> None:
    """Take memory of a device of the fake NVML library, in a child of this process, for a while."""
    from tests.fake_nvml import allocate as allocate_fake

    with subprocess.Popen(["sleep", "300"]) as child:
        allocate_fake(uuid, mib, pid=child.pid)
        time.sleep(seconds)
        allocate_fake(uuid, 0, pid=child.pid)
        child.kill()


@app.task(name="simple.linger")
def linger() -> None:
    """Make the process take minutes to end."""
    atexit.register(time.sleep, 300)
