"""What a task is given by what its runs were seen to use. Pure.

The figure is p95 plus headroom, on the model that needs the most of those on which the task may run. A figure that
moved with every observation would make each warm executor too small or too large for the next task, so it is rounded
up to `QUANTUM_MIB`, grows at once when it is too small, and shrinks only by more than a tenth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from celeray.scheduler.learned.histogram import Summary
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.filters import rank_of_type

QUANTUM_MIB = 256
KEEP_PERCENT = 90
"""A smaller need keeps the figure down to so much of it."""
OVERSIZE_PERCENT = 125
"""An executor that reserves more than so much of the figure is replaced when it is idle; below that its model in memory
is worth more than the room."""


@dataclass(frozen=True, slots=True)
class LearnedPolicy:
    """What the operator chose."""

    headroom_pct: int
    """Of p95, on top of it."""
    runs_min: int
    """Observations on a device model before they count."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Of one task name on one device model."""

    gpu_type: str
    summary: Summary
    asked_mib: int | None
    """What the last of the runs asked for; None: whole devices."""
    device_mib: int | None
    """What an idle device of the model gives out. None: not known."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a device model is known to need, and what it has, in MiB."""

    mib: int
    bound_mib: int | None


def need_of(observed: Observed, policy: LearnedPolicy) -> Need | None:
    """p95 plus headroom, at most what the device has, where the runs fitted after all. None: too few observations."""
    if observed.summary.count < policy.runs_min:
        return None
    mib = -(-observed.summary.p95_mib * (100 + policy.headroom_pct) // 100)
    bound = observed.device_mib
    return Need(mib if bound is None else min(mib, bound), bound)


def largest_need(
    request: ResourceRequest, observed: Iterable[Observed], present: Collection[str], policy: LearnedPolicy
) -> Need | None:
    """The need on the model that needs the most. None: nothing is known well enough yet.

    Models that the request's `gpu_type` does not accept don't count, nor do those that the cluster has no more,
    unless it has none of the others: then its devices may not have been read yet. On a model that was not observed
    enough the task gets what it needs elsewhere.

    Args:
        present: device models that the cluster has now.
    """
    accepted = [item for item in observed if rank_of_type(request.gpu_types, item.gpu_type) is not None]
    here = [item for item in accepted if item.gpu_type in present]
    needs = [need for item in here or accepted if (need := need_of(item, policy))]
    return max(needs, key=lambda need: need.mib, default=None)


def figure(need: Need, previous: int | None = None) -> int:
    """MiB to reserve.

    Args:
        previous: the figure so far; None: there is none.
    """
    rounded = -(-need.mib // QUANTUM_MIB) * QUANTUM_MIB
    if need.bound_mib is not None:
        rounded = min(rounded, need.bound_mib)
    if previous is not None and need.mib <= previous and rounded * 100 >= previous * KEEP_PERCENT:
        return previous
    return rounded


def with_figure(request: ResourceRequest, mib: int) -> ResourceRequest:
    """The request with a learned figure, at most its `vram_gb_max`."""
    most = request.memory_mib_max
    return replace(request, memory_mib=mib if most is None else min(mib, most))


def is_oversize(reserved_mib: int, mib: int) -> bool:
    """Whether an executor reserves so much more than the figure that it is better replaced."""
    return reserved_mib * 100 > mib * OVERSIZE_PERCENT
