"""How long routing one task takes: a mix of plain names, declared requirements, per-call headers and flags.

Wall time of single calls on a warm router, so the clock's own cost (about 50 ns) is included. Compare only
figures of one machine and one run.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.settings import DEFAULT_ROUTES, Settings

SEED = 20_240_601
CALLS = 20_000
WARM_UP = 1_000


def _calls(count: int) -> list[dict[str, Any]]:
    draw = random.Random(SEED)
    names = [f"film.tasks.{name}" for name in DEFAULT_ROUTES] + ["film.tasks.something_else"]
    attributes: list[dict[str, Any] | None] = [
        None,
        None,
        {"gpu": True, "vram_gb": 12},
        {"gpu": 2, "exclusive": True},
    ]
    attributes.append({"gpu": True, "vram_gb": 20, "gpu_type": ["A100", "H100"], "labels": {"zone": "a"}})
    headers: list[dict[str, Any] | None] = [
        None,
        {"user_initiated": True, "batch_size": 20},
        {"priority_task": True, "priority": 7},
        {"resource_requirements": {"vram_gb": 6}},
        {"resource_requirements": {"vram_mb": 9000, "on_oom": "fail"}},
    ]
    return [
        {
            "name": draw.choice(names),
            "kwargs": {"scene": draw.random()},
            "headers": draw.choice(headers),
            "attribute": draw.choice(attributes),
        }
        for _ in range(count)
    ]


def measure() -> dict[str, float]:
    """Median and 95th percentile of one call, in seconds."""
    router = TaskRouter(Settings.load())
    calls = _calls(WARM_UP + CALLS)
    for call in calls[:WARM_UP]:
        router.route(**call)
    taken = []
    for call in calls[WARM_UP:]:
        begun = time.perf_counter()
        router.route(**call)
        taken.append(time.perf_counter() - begun)
    cuts = statistics.quantiles(taken, n=100)
    return {"calls": float(CALLS), "p50_s": cuts[49], "p95_s": cuts[94]}


if __name__ == "__main__":
    print(measure())
