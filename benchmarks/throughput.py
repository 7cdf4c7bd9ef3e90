"""How fast a side drains a queue of no-op tasks: messages loaded first, then the time until the last one is settled.

The clock runs from the first message taken to the moment when the queue and the set of unacknowledged messages are
empty: late acks are on, so an empty set means that every outcome is settled and every result stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from benchmarks import apps
from benchmarks.cpu import CpuMeter
from benchmarks.messages import preload
from benchmarks.sides import Side
from benchmarks.workers import REPLY_DEADLINE_S, WorkerProcess

POLL_INTERVAL_S = 0.01
STALL_DEADLINE_S = 60.0
# A drain that is long enough to swallow the ramp at both ends.
RUN_S = 10.0
WARM_UP_S = 2.0
PILOT_MESSAGES = 1_000
MODES = {"ignored": apps.ignored, "stored": apps.stored}
_UNACKED = "unacked"
_RESULTS = "celery-task-meta-*"


@dataclass(frozen=True)
class Drain:
    """One measured run."""

    messages: int
    seconds: float
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """CPU time by process, see `cpu.CpuMeter`."""

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.messages / self.seconds


def measure_drain(side: Side, worker: WorkerProcess, mode: str, *, run_s: float = RUN_S) -> Drain:
    """A pilot sizes the warm-up, the warm-up sizes the run."""
    pilot = drain(side, worker, mode, PILOT_MESSAGES)
    warm = drain(side, worker, mode, max(PILOT_MESSAGES, int(pilot.rate * WARM_UP_S)))
    return drain(side, worker, mode, max(PILOT_MESSAGES, int(warm.rate * run_s)))


def drain(side: Side, worker: WorkerProcess, mode: str, count: int) -> Drain:
    """Load `count` messages while the worker does not consume, then let it, and time it.

    Raises:
        RuntimeError: the drain stalled, or not every task ran, or not every result was stored.
    """
    task = MODES[mode]
    with (
        redis.Redis.from_url(worker.app.conf.broker_url) as broker,
        redis.Redis.from_url(worker.app.conf.result_backend) as backend,
    ):
        _consume(worker, side.queue, wanted=False)
        backend.flushdb()
        before = _ran(worker, task)
        preload(broker, task, side.queue, count)
        meter = CpuMeter(worker, broker)
        _consume(worker, side.queue, wanted=True)
        seconds = _time_drain(broker, side.queue, count)
        cpu_s = meter.seconds()
        ran = _ran(worker, task) - before
        stored = sum(1 for _ in backend.scan_iter(_RESULTS, count=10_000)) if mode == "stored" else 0
    if ran != count or (mode == "stored" and stored != count):
        raise RuntimeError(f"{side.name}, {mode}: {count} messages, {ran} tasks ran, {stored} results")
    return Drain(count, seconds, cpu_s)


def _consume(worker: WorkerProcess, queue: str, *, wanted: bool) -> None:
    command = worker.app.control.add_consumer if wanted else worker.app.control.cancel_consumer
    if not command(queue, destination=[worker.node], reply=True, timeout=REPLY_DEADLINE_S, limit=1):
        raise TimeoutError(f"{worker.node} did not answer within {REPLY_DEADLINE_S:g} s; see {worker.log}")


def _time_drain(broker: redis.Redis, queue: str, count: int) -> float:
    """Seconds from the last look at which no message was taken yet."""
    begun = progressed_at = time.monotonic()
    left = count
    while True:
        waiting, unacked = _outstanding(broker, queue)
        now = time.monotonic()
        if waiting == count:
            begun = now
        if waiting + unacked == 0:
            return now - begun
        if waiting + unacked < left:
            left, progressed_at = waiting + unacked, now
        elif now - progressed_at > STALL_DEADLINE_S:
            raise RuntimeError(
                f"{queue}: {waiting} waiting and {unacked} unacknowledged for {STALL_DEADLINE_S:g} s"
            )
        time.sleep(POLL_INTERVAL_S)


def _outstanding(broker: redis.Redis, queue: str) -> tuple[int, int]:
    with broker.pipeline(transaction=True) as pipeline:
        pipeline.llen(queue)
        pipeline.hlen(_UNACKED)
        waiting, unacked = pipeline.execute()
    return int(waiting), int(unacked)


def _ran(worker: WorkerProcess, task: Any) -> int:
    return int(worker.stats()["total"].get(task.name, 0))
