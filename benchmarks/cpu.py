"""CPU time by process: what a task costs, whatever else the machine does meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import psutil
import redis

from benchmarks.workers import WorkerProcess

ROLES = {
    "celeray.actors.driver": "driver",
    "ray::Executor": "executor",
    "ray::": "ray",
    "/ray/": "ray",
}
"""Of a process below the worker, by what its command line holds; the first that fits. Else it is a child."""


class CpuMeter:
    """Of a worker, the processes below it, and Redis, since the meter was made."""

    def __init__(self, worker: WorkerProcess, broker: redis.Redis) -> None:
        self._processes = {psutil.Process(int(broker.info("server")["process_id"])): "redis"}
        main = psutil.Process(worker.pid)
        self._processes[main] = "worker"
        for process in main.children(recursive=True):
            self._processes[process] = _role(" ".join(process.cmdline()))
        self._before = {process: _seconds(process) for process in self._processes}

    def seconds(self) -> Mapping[str, float]:
        """User and system time by role. A process that has ended counts nothing."""
        spent: dict[str, float] = defaultdict(float)
        for process, role in self._processes.items():
            spent[role] += max(0.0, _seconds(process) - self._before[process])
        return spent


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _role(command: str) -> str:
    return next((role for part, role in ROLES.items() if part in command), "children")
