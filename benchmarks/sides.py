"""The two sides of a comparison: stock prefork and the bridge, each on a queue of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apps import app
from benchmarks.workers import WorkerProcess

APP_MODULE = "benchmarks.apps"
DEVICES = "1x8GiB"
# What a reader needs to know to compare: everything else is Celery's or celeray's default.
_SETTINGS = (
    "task_acks_late",
    "task_track_started",
    "worker_send_task_events",
    "task_send_sent_event",
    "worker_prefetch_multiplier",
    "task_serializer",
    "result_serializer",
    "result_expires",
)
_QUIET = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING"]


@dataclass(frozen=True)
class Side:
    """One kind of worker and the queue it drains."""

    name: str
    queue: str

    def start(self, log: Path) -> WorkerProcess:
        """The worker, not started yet. Prefork has one child a core; the bridge one simulated device."""
        node = f"{self.name}@bench"
        if self.name == "prefork":
            command = [sys.executable, "-m", "celery", "-A", APP_MODULE, "worker", "-P", "prefork"]
            command += ["-c", str(os.cpu_count() or 1), "-Q", self.queue, "-n", node, *_QUIET]
        else:
            celeray = str(Path(sys.executable).with_name("celeray"))
            command = [celeray, "bridge", "-A", APP_MODULE, "-Q", self.queue, "--simulate-gpus", DEVICES]
            command += ["--", "-n", node, *_QUIET]
        return WorkerProcess(command, app=app, node=node, log=log)


SIDES = {side.name: side for side in (Side("prefork", "bench.prefork"), Side("bridge", "gpu.processing"))}


def settings_in_force(worker: WorkerProcess) -> dict[str, Any]:
    """As the running worker reports them, not as they were meant."""
    conf, stats = worker.conf(), worker.stats()
    pool = stats["pool"]
    shown = {name: conf.get(name) for name in _SETTINGS}
    return {
        **shown,
        "pool": pool.get("implementation"),
        "concurrency": pool.get("max-concurrency"),
        "prefetch_count": stats["prefetch_count"],
    }
