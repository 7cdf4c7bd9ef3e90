"""What only grows, and is added up over bridges: counts and distributions of runs. Frozen values only."""

from __future__ import annotations

from celeray.scheduler.frozen import Frozen


class TenantUse(Frozen):
    """VRAM that the runs of a tenant held, added up."""

    tenant: str
    """Empty: of all tasks that name none."""
    mib_s: float
    """MiB times seconds."""


class TaskCount(Frozen):
    """A number of tasks with one queue and name."""

    queue: str
    name: str
    count: int


class FinishedCount(Frozen):
    """Runs that ended, of one queue, name and outcome."""

    queue: str
    name: str
    outcome: str
    count: int


class TaskHistogram(Frozen):
    """A distribution of seconds for one queue and name."""

    queue: str
    name: str
    bounds: tuple[float, ...]
    """Upper bounds, rising; the bucket above the last one is implied."""
    counts: tuple[int, ...]
    """Observations of each bucket alone, not cumulative; one more than `bounds`."""
    sum: float


class Counters(Frozen):
    """What only grows."""

    finished: tuple[FinishedCount, ...] = ()
    out_of_memory: tuple[TaskCount, ...] = ()
    """Runs whose GPU memory ran out, and that were placed again."""
    preempted: tuple[TaskCount, ...] = ()
    """Runs that were ended for an urgent task, and whose messages were put back."""
    placement: tuple[TaskHistogram, ...] = ()
    """Received to started."""
    execution: tuple[TaskHistogram, ...] = ()
    """Started to ended."""
    tenants: tuple[TenantUse, ...] = ()
    """Empty where no message has named a tenant."""
