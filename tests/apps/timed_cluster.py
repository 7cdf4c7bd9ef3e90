"""A cluster for the bridge's tests without Ray: tasks take the time that their first argument says, and run nothing.

`CELERAY_CLUSTER=tests.apps.timed_cluster:TimedCluster`; its devices are those of `simulate_gpus`. The start of each run
is written to Redis, by this process's clock.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from typing import Any

import msgpack
import redis

from celeray.scheduler.bridge.fake_cluster import FakeCluster
from celeray.scheduler.cluster import ExecutorSpec, NodeRead, RunSpec

GIB = 1024
READ_EVERY_S = 1.0
STARTS = "test:starts"
"""List of JSON [task id, CLOCK_MONOTONIC seconds], in the order of the starts."""


class TimedCluster(FakeCluster):
    """One node."""

    def __init__(self, settings: Any, bridge_id: str) -> None:
        count, size = (settings.simulate_gpus or "1x24GiB").split("x")
        gib = int(size.removesuffix("GiB"))
        super().__init__({"n1": [(f"GPU-{number}", "sim", gib * GIB) for number in range(int(count))]})
        self._redis: Any = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])

    def start(self, listener: Any) -> None:
        super().start(listener)
        self.up(time.monotonic())
        threading.Thread(target=self._read_on, daemon=True).start()

    def _read_on(self) -> None:
        while not self.stopped:
            time.sleep(READ_EVERY_S)
            self.read_all(time.monotonic())

    def start_executor(self, spec: ExecutorSpec) -> None:
        super().start_executor(spec)
        self.started(spec.executor_id)

    def run(self, executor_id: str, *runs: RunSpec) -> None:
        super().run(executor_id, *runs)
        self._begin(executor_id)

    def _begin(self, executor_id: str) -> None:
        executor = self.executors.get(executor_id)
        if executor is None or not executor.runs:
            return
        run = executor.runs[0]
        self._redis.rpush(STARTS, json.dumps([run.task_id, time.monotonic()]))
        timer = threading.Timer(_seconds(run.payload), self._end, (executor_id,))
        timer.daemon = True
        timer.start()

    def _end(self, executor_id: str) -> None:
        executor = self.executors.get(executor_id)
        if executor is None:
            return
        # Told of the end, the bridge may hand it the next run from another thread at once.
        has_more = len(executor.runs) > 1
        self.finish(executor_id)
        if has_more:
            self._begin(executor_id)

    def read_node(self, node_id: str) -> None:
        self._send(NodeRead(self.reading(node_id, time.monotonic())))


def _seconds(payload: bytes) -> float:
    _name, _id, _request, body, *_ = pickle.loads(payload)
    args, _kwargs, _embed = msgpack.unpackb(body)
    return float(args[0]) if args else 0.0
