"""The sides of a comparison: stock prefork, the bridge, and stock prefork with what Celery switches off by default."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.apps import PLAIN_VARIABLE, app
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
TRANSPORT_VARIABLE = "CELERAY_TRANSPORT"
TRANSPORTS = ("leased", "kombu")
_QUIET = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING"]


@dataclass(frozen=True)
class Side:
    """One kind of worker and the queue it drains."""

    name: str
    queue: str
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_bridge(self) -> bool:
        """Whether tasks run on Ray."""
        return self.name == "bridge"

    def start(self, log: Path) -> WorkerProcess:
        """The worker, not started yet. Prefork has one child a core; the bridge one simulated device."""
        node = f"{self.name}@bench"
        if not self.is_bridge:
            command = [sys.executable, "-m", "celery", "-A", APP_MODULE, "worker", "-P", "prefork"]
            command += ["-c", str(os.cpu_count() or 1), "-Q", self.queue, "-n", node, *_QUIET]
        else:
            celeray = str(Path(sys.executable).with_name("celeray"))
            command = [celeray, "bridge", "-A", APP_MODULE, "-Q", self.queue, "--simulate-gpus", DEVICES]
            command += ["--", "-n", node, *_QUIET]
        return WorkerProcess(command, app=app, node=node, log=log, env={**os.environ, **self.env})


def sides(transport: str = "leased") -> dict[str, Side]:
    """All sides by name.

    Args:
        transport: how the bridge takes messages, one of `TRANSPORTS`; stock workers use kombu's.
    """
    made = (
        Side("prefork", "bench.prefork"),
        Side("bridge", "gpu.processing", {TRANSPORT_VARIABLE: transport}),
        Side("prefork-plain", "bench.prefork", {PLAIN_VARIABLE: "1"}),
    )
    return {side.name: side for side in made}


def settings_in_force(side: Side, worker: WorkerProcess) -> dict[str, Any]:
    """As the running worker reports them, not as they were meant."""
    conf, stats = worker.conf(), worker.stats()
    pool = stats["pool"]
    shown = {name: conf.get(name) for name in _SETTINGS}
    return {
        **shown,
        "transport": side.env.get(TRANSPORT_VARIABLE, "kombu"),
        "pool": pool.get("implementation"),
        "concurrency": pool.get("max-concurrency"),
        "prefetch_count": stats["prefetch_count"],
    }
