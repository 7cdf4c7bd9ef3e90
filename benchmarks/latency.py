"""How long an idle side takes from `apply_async` to the first line of the task.

Both ends read CLOCK_MONOTONIC of the same host. Samples are spaced out with a fixed seed, so that each finds the worker
idle and none falls into step with a poll.
"""

from __future__ import annotations

import random
import time

from benchmarks.apps import moment
from benchmarks.sides import Side

SEED = 20_240_601
SAMPLES = 150
WARM_UP = 30
SPACING_S = (0.03, 0.13)
RESULT_DEADLINE_S = 60.0


def measure_latency(side: Side, *, samples: int = SAMPLES) -> list[float]:
    """Seconds from publish to start, one a sample, after `WARM_UP` unmeasured ones."""
    draw = random.Random(SEED)
    taken = []
    for _ in range(WARM_UP + samples):
        time.sleep(draw.uniform(*SPACING_S))
        published = time.monotonic()
        result = moment.apply_async(queue=side.queue)
        taken.append(result.get(timeout=RESULT_DEADLINE_S) - published)
    return taken[WARM_UP:]
