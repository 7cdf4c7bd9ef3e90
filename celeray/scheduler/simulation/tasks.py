"""One task of a trace."""

from __future__ import annotations

from dataclasses import dataclass

from celeray.scheduler import priorities
from celeray.scheduler.model import ResourceRequest, WaitingTask

SERVICE_PRIORITIES = {"LS": 7, "BE": 3}
"""Of a public trace's classes, where they are wanted: latency-sensitive before, best-effort behind all others."""


@dataclass(frozen=True, slots=True)
class TraceTask:
    """What was asked for, when, and how long it ran. Seconds are on any clock that all tasks of a trace share."""

    name: str
    request: ResourceRequest
    """With `Isolation.FRESH`: each run gets room of its own, and gives it back when it ends."""
    arrived_s: float | None = None
    """None: not known; it is no part of a replay."""
    run_s: float | None = None
    """None: not known."""
    priority: int = priorities.DEFAULT
    service: str = ""
    """The trace's own name of its class of service, or its queue."""

    def vram_mib(self, whole_mib: float) -> float:
        """VRAM that it asks for on all its devices, where a whole device counts as `whole_mib`."""
        each = whole_mib if self.request.memory_mib is None else self.request.memory_mib
        return self.request.gpus * each

    def waiting(self, sequence: int, *, arrived_ms: int = 0, expected_ms: int | None = None) -> WaitingTask:
        """The task as `place` takes it. All are of one executor class, which only warm executors go by."""
        return WaitingTask(self.name, "trace", self.request, self.priority, sequence, arrived_ms, expected_ms)
