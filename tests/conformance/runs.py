"""Where the suite's tasks ran: one counter a process, in a Redis hash that the harness reads after the run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import redis

RUNS_VARIABLE = "CONFORMANCE_RUNS"
RUNS_KEY = "conformance:runs"


@dataclass(frozen=True)
class RunSite:
    """A process that ran tasks, the Ray actor that it is (None: no actor), and how many it ran."""

    pid: int
    actor_id: str | None
    tasks: int


def record_run(client: redis.Redis) -> None:
    """Count one task for this process."""
    client.hincrby(RUNS_KEY, f"{os.getpid()}:{_actor_id() or ''}", 1)


def read_runs(client: redis.Redis) -> list[RunSite]:
    counted: dict[bytes, bytes] = client.hgetall(RUNS_KEY)  # type: ignore[assignment]  # no decode_responses
    sites = []
    for field, tasks in counted.items():
        pid, _, actor_id = field.decode().partition(":")
        sites.append(RunSite(int(pid), actor_id or None, int(tasks)))
    return sorted(sites, key=lambda site: -site.tasks)


def _actor_id() -> str | None:
    """This process's Ray actor id. A process that has not imported Ray is none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    actor_id: str | None = ray.get_runtime_context().get_actor_id()
    return actor_id
