"""How fast messages come off Redis: kombu's own transport beside the leased one.

`loop` is a bare consumer in an event loop that acks each message as it comes; `prefork` is a Celery worker with one
child a core that runs no-op tasks with late acks. Both drain what was loaded before. Same server, same settings, and
the sides take turns, so that a busy machine hits both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous import Hub, set_event_loop

from benchmarks import apps
from benchmarks.messages import preload
from benchmarks.sides import APP_MODULE, Side
from benchmarks.throughput import drain
from benchmarks.workers import WorkerProcess
from celeray.scheduler.embedded_redis import EmbeddedRedis

LEASED = "celeray.scheduler.transport:Transport"
TRANSPORTS = {"stock": "redis", "leased": LEASED}
QUEUE = "bench.transport"
PREFETCH = 16
LOOP_MESSAGES = 4_000
PREFORK_MESSAGES = 6_000
REPETITIONS = 3


def measure(*, repetitions: int = REPETITIONS, prefork: bool = True) -> dict[str, Any]:
    """Messages a second, medians, and the ratio of leased to stock. Starts a Redis server of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="celeray-bench-") as folder,
        EmbeddedRedis(Path(folder) / "redis") as server,
    ):
        _point_app_at(server)
        found = {"loop": _compare(_loop_rate, server.url, repetitions)}
        if prefork:
            found["prefork"] = _prefork(Path(folder), repetitions)
    return {**found, "prefetch": PREFETCH, "repetitions": repetitions}


def _compare(rate: Any, url: str, repetitions: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
    for _ in range(repetitions):
        for name, transport in TRANSPORTS.items():
            rates[name].append(rate(url, transport))
    return _summary(rates)


def _summary(rates: dict[str, list[float]]) -> dict[str, float]:
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    return {**medians, "ratio": round(medians["leased"] / medians["stock"], 2)}


def _loop_rate(url: str, transport: str) -> float:
    """Messages a second through a consumer in an event loop."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        preload(client, apps.ignored, QUEUE, LOOP_MESSAGES)
    hub, left = Hub(), LOOP_MESSAGES
    set_event_loop(hub)

    def on_message(message: Any) -> None:
        nonlocal left
        message.ack()
        left -= 1

    with Connection(url, transport=transport) as connection:
        queue = Queue(QUEUE, Exchange(""), routing_key=QUEUE)
        consumer = Consumer(connection, [queue], on_message=on_message)
        consumer.qos(prefetch_count=PREFETCH)
        connection.register_with_event_loop(hub)
        begun = time.perf_counter()
        consumer.consume()
        while left:
            hub.run_once()
        seconds = time.perf_counter() - begun
    hub.close()
    return LOOP_MESSAGES / seconds


def _point_app_at(server: EmbeddedRedis) -> None:
    """This process's app, and those of the workers that it starts."""
    os.environ["CELERY_BROKER_URL"] = server.url
    os.environ["CELERY_RESULT_BACKEND"] = f"redis://127.0.0.1:{server.port}/1"
    apps.app.conf.update(broker_url=server.url, result_backend=os.environ["CELERY_RESULT_BACKEND"])


def _prefork(folder: Path, repetitions: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
    for name, transport in TRANSPORTS.items():
        node = f"{name}@bench"
        command = [sys.executable, "-m", "celery", "-A", APP_MODULE, "worker", "-P", "prefork"]
        command += ["-c", str(os.cpu_count() or 1), "-Q", QUEUE, "-n", node, "-l", "WARNING"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        command += ["--", f"broker.transport={transport}"]
        worker = WorkerProcess(command, app=apps.app, node=node, log=folder / f"{name}.log")
        with worker:
            drain(Side(name, QUEUE), worker, "ignored", PREFORK_MESSAGES // 4)
            for _ in range(repetitions):
                rates[name].append(drain(Side(name, QUEUE), worker, "ignored", PREFORK_MESSAGES).rate)
    return _summary(rates)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
