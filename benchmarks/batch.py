"""How long submitting takes: `celeray.submit_batch` beside a loop of `apply_async` of the same signatures.

One producer, no worker. `loop` is the same app; `stock_loop` is one without celeray that sends its task-sent events as
well. The sides take turns, and each begins with empty queues.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from celery import Celery

import celeray
from celeray.scheduler.embedded_redis import EmbeddedRedis

MESSAGES = 2_000
QUICK_MESSAGES = 200
REPETITIONS = 5
NAMES = ("generate_image", "apply_style_transfer", "analyze_scene", "generate_thumbnail", "save_to_storage")


def measure(
    url: str, backend: str, *, messages: int = MESSAGES, repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Median microseconds a message, and how many times longer the loops take. Empties the database of `url`."""
    app, stock = _app(url, backend), _app(url, backend)
    celeray.install(app)
    stock.conf.task_send_sent_event = True
    ways: dict[str, Callable[[list[Any]], Any]] = {
        "batch": lambda signatures: celeray.submit_batch(signatures, app),
        "loop": lambda signatures: [signature.apply_async() for signature in signatures],
        "stock_loop": lambda signatures: [signature.apply_async() for signature in signatures],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with redis.Redis.from_url(url) as client:
        for repetition in range(repetitions + 1):
            for name, submit in ways.items():
                seconds = _time(client, stock if name == "stock_loop" else app, submit, messages)
                if repetition:
                    taken[name].append(seconds / messages)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "us_a_message": {name: round(value * 1e6, 1) for name, value in medians.items()},
        "ratio": round(medians["loop"] / medians["batch"], 2),
        "ratio_to_stock": round(medians["stock_loop"] / medians["batch"], 2),
        "messages": messages,
        "repetitions": repetitions,
    }


def _app(url: str, backend: str) -> Celery:
    app = Celery("bench", broker=url, backend=backend, set_as_current=False)
    for name in NAMES:
        app.task(_nothing, shared=False, name=f"film.{name}")
    return app


def _nothing(scene: int, size: str = "full") -> None: ...


def _time(client: redis.Redis, app: Celery, submit: Callable[[list[Any]], Any], messages: int) -> float:
    """Seconds of one run. What the results of the last one leave behind is collected before."""
    client.flushdb()
    signatures = [app.tasks[f"film.{NAMES[n % len(NAMES)]}"].s(n, size="half") for n in range(messages)]
    gc.collect()
    begun = time.perf_counter()
    results = submit(signatures)
    seconds = time.perf_counter() - begun
    del results
    return seconds


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="celeray-bench-") as folder,
        EmbeddedRedis(Path(folder)) as server,
    ):
        print(json.dumps(measure(server.url, f"redis://127.0.0.1:{server.port}/1"), indent=2))


if __name__ == "__main__":
    main()
