"""A plain prefork worker on a CPU queue: Celery as it comes beside celeray's transport. The same pool, the same tasks.

The leased side claims no more than its children can begin at once, so nothing it holds delays something more urgent;
the stock side prefetches, as Celery does. The sides take turns, each alone on the machine.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import throughput
from benchmarks.apps import app
from benchmarks.sides import TRANSPORT_VARIABLE, Side, settings_in_force
from benchmarks.workers import WorkerProcess

MODULES = {"stock": "benchmarks.apps", "leased": "benchmarks.leased"}
PREFETCH_MULTIPLIER = 4
"""Celery's own default, said aloud, since celeray's is 1."""
RUN_S = 4.0
QUICK_RUN_S = 1.0
_QUIET = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING"]


@dataclass(frozen=True)
class PlainWorker(Side):
    """Prefork, one child a core."""

    def start(self, log: Path) -> WorkerProcess:
        """The worker, not started yet."""
        node = f"{self.name}@bench"
        command = [sys.executable, "-m", "celery", "-A", MODULES[self.name], "worker", "-P", "prefork"]
        command += ["-c", str(os.cpu_count() or 1), "-Q", self.queue, "-n", node, *_QUIET]
        command += ["--prefetch-multiplier", str(PREFETCH_MULTIPLIER)]
        return WorkerProcess(command, app=app, node=node, log=log, env={**os.environ, **self.env})


SIDES = (
    PlainWorker("stock", "bench.cpu.stock"),
    PlainWorker("leased", "bench.cpu.leased", {TRANSPORT_VARIABLE: "leased"}),
)


def measure(repetitions: int, logs: Path, *, quick: bool = False) -> dict[str, Any]:
    """Tasks a second of each side, medians, by mode; the broker's address is in Celery's own variables."""
    drains: dict[str, dict[str, list[throughput.Drain]]] = {mode: {} for mode in throughput.MODES}
    settings: dict[str, Any] = {}
    for _ in range(repetitions):
        for side in SIDES:
            with side.start(logs / f"cpu-{side.name}.log") as worker:
                settings[side.name] = settings_in_force(side, worker)
                for mode, found in drains.items():
                    run_s = QUICK_RUN_S if quick else RUN_S
                    drain = throughput.measure_drain(side, worker, mode, run_s=run_s)
                    found.setdefault(side.name, []).append(drain)
    return {"settings": settings, **{mode: _figures(found) for mode, found in drains.items()}}


def _figures(drains: dict[str, list[throughput.Drain]]) -> dict[str, Any]:
    medians = {name: statistics.median(drain.rate for drain in found) for name, found in drains.items()}
    return {
        **{name: round(rate) for name, rate in medians.items()},
        "ratio": round(medians["leased"] / medians["stock"], 2),
        "runs": {name: [round(drain.rate) for drain in found] for name, found in drains.items()},
        "cpu_us": {name: round(statistics.median(map(_cpu_us, found))) for name, found in drains.items()},
    }


def _cpu_us(drain: throughput.Drain) -> float:
    """CPU time of a task, of the worker with its children and of Redis, in microseconds."""
    return sum(drain.cpu_s.values()) / drain.messages * 1e6
