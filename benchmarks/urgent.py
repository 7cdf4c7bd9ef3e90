"""How long an urgent task takes to start behind a backlog of 10,000, while a device is free for it.

A bridge on Ray with two simulated devices: the backlog's tasks need the large one, which is always busy with them, and
fill the window; the urgent task fits the small one, where its executor is warm. Both ends read CLOCK_MONOTONIC of the
same host; the gaps between samples are drawn with a fixed seed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

import celeray
from benchmarks.latency import SEED
from benchmarks.workers import WorkerProcess

MODULE = "benchmarks.urgent"
QUEUE = "gpu.processing"
DEVICES = "1x24GiB,1x8GiB"
BACKLOG = 10_000
SAMPLES = 100
WARM_UP = 3
SPACING_S = (0.1, 0.5)
MOST_URGENT = 10
RESULT_DEADLINE_S = 120.0
BOUNDS_S = (0.1, 0.25)

app = Celery(
    "urgent", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND")
)
celeray.install(app)


@app.task(name="urgent.backlog", ignore_result=True, resource_requirements={"gpu": True, "vram_gb": 20})
def backlog(seconds: float) -> None:
    """Keeps the large device busy."""
    time.sleep(seconds)


@app.task(name="urgent.moment", resource_requirements={"gpu": True, "vram_gb": 4})
def moment() -> float:
    """When it started: CLOCK_MONOTONIC in seconds."""
    return time.monotonic()


def measure(logs: Path, *, quick: bool = False) -> dict[str, Any]:
    """Milliseconds from publish to start; the broker's address is in Celery's own variables."""
    url, backend = os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"]
    app.conf.update(broker_url=url, result_backend=backend)
    samples, waiting = (10, 500) if quick else (SAMPLES, BACKLOG)
    for _ in range(waiting):
        backlog.apply_async((1.0,), queue=QUEUE)
    node = "urgent@bench"
    program = str(Path(sys.executable).with_name("celeray"))
    command = [program, "bridge", "-A", MODULE, "-Q", QUEUE, "--simulate-gpus", DEVICES]
    command += ["-n", node, "-l", "WARNING", "--", "--without-mingle", "--without-gossip"]
    env = {**os.environ, "CELERAY_TRANSPORT": "leased"}
    with WorkerProcess(command, app=app, node=node, log=logs / "urgent.log", env=env):
        taken = sorted(_samples(samples))
        app.control.purge()
    return {
        "backlog": waiting,
        "samples": samples,
        "p50": round(taken[samples // 2] * 1e3, 1),
        "p99": round(taken[max(0, samples * 99 // 100 - 1)] * 1e3, 1),
        "max": round(taken[-1] * 1e3, 1),
        **{f"within_{bound * 1e3:.0f}_ms": sum(item <= bound for item in taken) for bound in BOUNDS_S},
    }


def _samples(count: int) -> list[float]:
    """Seconds, after `WARM_UP` unmeasured ones, which start the executor and fill the window."""
    draw, taken = random.Random(SEED), []
    for _ in range(WARM_UP + count):
        time.sleep(draw.uniform(*SPACING_S))
        published = time.monotonic()
        result = moment.apply_async(queue=QUEUE, priority=MOST_URGENT)
        taken.append(result.get(timeout=RESULT_DEADLINE_S) - published)
    return taken[WARM_UP:]
