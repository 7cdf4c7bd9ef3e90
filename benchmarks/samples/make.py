"""Writes `tasks.csv` and `nodes.csv` beside it, in the public format. Made up: shapes, their weights and all times.

`python -m benchmarks.samples.make` writes the same bytes each time.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from celeray.scheduler.simulation.trace import COLUMNS as TASK_COLUMNS

SEED = 20_240_601
TASKS = 700
GAP_MEAN_S = 4.5
RUN_MEAN_LOG, RUN_SIGMA_LOG = 6.0, 1.6
"""Of the natural logarithm of a run in seconds: half run shorter than 7 minutes, a few for hours."""
NEVER_SCHEDULED = 0.05
SHAPES = (
    # weight, cores, host MiB, devices, milli of each
    (10, 8, 16_384, 0, 0),
    (16, 4, 12_288, 1, 250),
    (12, 6, 12_288, 1, 500),
    (10, 8, 24_576, 1, 600),
    (14, 8, 24_576, 1, 750),
    (30, 10, 32_768, 1, 1_000),
    (5, 20, 65_536, 2, 1_000),
    (3, 64, 262_144, 8, 1_000),
)
NODES = (
    # number, cores, host MiB, devices, model
    (14, 96, 393_216, 8, "A"),
    (10, 48, 196_608, 4, "B"),
    (20, 32, 131_072, 2, "C"),
)


def tasks_csv() -> str:
    """The tasks."""
    draw = random.Random(SEED)
    at = 0.0
    rows = []
    for number in range(TASKS):
        at += draw.expovariate(1 / GAP_MEAN_S)
        _, cores, memory, gpus, milli = draw.choices(SHAPES, weights=[shape[0] for shape in SHAPES])[0]
        begun = at + draw.expovariate(1 / 20)
        ended = begun + draw.lognormvariate(RUN_MEAN_LOG, RUN_SIGMA_LOG)
        never = draw.random() < NEVER_SCHEDULED
        service = draw.choices(("LS", "BE"), weights=(3, 2))[0]
        rows.append(
            (
                *(f"sample-{number:04}", cores * 1_000, memory, gpus, milli, "", service),
                *(round(at), round(ended), "" if never else round(begun)),
            )
        )
    return _csv(TASK_COLUMNS, rows)


def nodes_csv() -> str:
    """The nodes."""
    rows = [
        (f"node-{model.lower()}{number:02}", cores * 1_000, memory, gpus, model)
        for count, cores, memory, gpus, model in NODES
        for number in range(count)
    ]
    return _csv(("sn", "cpu_milli", "memory_mib", "gpu", "model"), rows)


def _csv(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "tasks.csv").write_text(tasks_csv(), "utf-8")
    (folder / "nodes.csv").write_text(nodes_csv(), "utf-8")
