"""What this bridge notes of its runs' VRAM, and what it makes of requests by what all bridges have noted.

Belongs to the consumer thread, but for `observed`, which the thread that speaks with Redis replaces as a whole
(bridge/learned_exchange.py). Neither noting nor resolving asks anybody: a few dictionary lookups a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from celeray.scheduler.bridge.executors import Executor, executor_class
from celeray.scheduler.bridge.peaks import Peak
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.learned.figures import (
    LearnedPolicy,
    Observed,
    figure,
    is_oversize,
    largest_need,
    with_figure,
)
from celeray.scheduler.learned.histogram import bucket
from celeray.scheduler.learned.store import SERIES_MAX, Noted, Series
from celeray.scheduler.model import Basis, NodeReading, ResourceRequest

UNKNOWN_TYPE = "unknown"
"""Device model where NVML gives no name."""

FIGURES_MAX = 4_096
"""Executor classes of which the bridge knows the size at once; beyond, it begins anew. Headers may make any number."""


class Learner:
    """Of one bridge."""

    def __init__(self, policy: LearnedPolicy) -> None:
        self.observed: Mapping[str, tuple[Observed, ...]] = {}
        """By task name, of each device model: what all bridges had noted when it was last read."""
        self._policy = policy
        self._present: frozenset[str] = frozenset()
        self._figures: dict[tuple[str, tuple[str, ...]], int] = {}
        """The figure so far, by task name and accepted device types."""
        self._sizes: dict[str, int] = {}
        """MiB that a task of this class was given last, where that was learned. Shared classes are not in it."""
        self._noted: dict[tuple[str, str], Noted] = {}
        """By task name and device model, as `Series` has them."""
        self._resolved: dict[tuple[str, ResourceRequest], ResourceRequest] = {}
        """What requests became by `_resolved_by`, since thousands of messages ask alike."""
        self._resolved_by: Mapping[str, tuple[Observed, ...]] = self.observed

    # What runs use

    def note(self, run: Run, executor: Executor, peak: Peak) -> None:
        """A run that succeeded used so much at its peak. One that failed may not have got to it, so it is not noted."""
        self._add(run, executor, peak.mib)

    def note_out_of_memory(self, run: Run, executor: Executor) -> None:
        """A run did not fit into what its executor has reserved, so it needs that at least."""
        if executor.memory_mib > 0:
            self._add(run, executor, executor.memory_mib)

    def take(self) -> dict[Series, Noted]:
        """What was noted since the last call."""
        noted, self._noted = self._noted, {}
        return {Series(*key): entry for key, entry in noted.items()}

    def _add(self, run: Run, executor: Executor, mib: int) -> None:
        key = (run.name, executor.gpu_type or UNKNOWN_TYPE)
        entry = self._noted.get(key)
        if entry is None:
            if len(self._noted) >= SERIES_MAX:
                # Redis keeps no more either.
                return
            entry = self._noted[key] = Noted()
        upper = bucket(mib)
        entry.counts[upper] = entry.counts.get(upper, 0) + 1
        entry.asked_mib, entry.device_mib = run.facts.request.memory_mib, executor.device_mib

    # What requests become

    def see(self, readings: Iterable[NodeReading]) -> None:
        """The device models that the bridge has now."""
        present = frozenset(device.name or UNKNOWN_TYPE for reading in readings for device in reading.devices)
        if present != self._present:
            self._present = present
            self._resolved.clear()

    def resolve(self, name: str, request: ResourceRequest) -> ResourceRequest:
        """The request as it is placed: as declared, unless it goes by what was learned and enough was."""
        if request.basis is not Basis.LEARNED or not request.gpus:
            return request
        if self.observed is not self._resolved_by or len(self._resolved) >= FIGURES_MAX:
            self._resolved_by = self.observed
            self._resolved.clear()
        known = self._resolved.get((name, request))
        if known is None:
            known = self._resolved[name, request] = self._resolve(name, request)
        return known

    def _resolve(self, name: str, request: ResourceRequest) -> ResourceRequest:
        need = largest_need(request, self.observed.get(name, ()), self._present, self._policy)
        key, own_class = (name, request.gpu_types), executor_class(name, request)
        if need is None:
            # It may have been reset.
            self._figures.pop(key, None)
            self._sizes.pop(own_class, None)
            return request
        if len(self._sizes) >= FIGURES_MAX:
            self._figures.clear()
            self._sizes.clear()
        self._figures[key] = mib = figure(need, self._figures.get(key))
        resolved = with_figure(request, mib)
        if request.executor is None and resolved.memory_mib is not None:
            self._sizes[own_class] = resolved.memory_mib
        return resolved

    def peak_mib(self, name: str) -> int | None:
        """Most that any observed run of the task used on any device model. None: none was observed."""
        return max((item.summary.max_mib for item in self.observed.get(name, ())), default=None)

    def is_oversize(self, executor: Executor) -> bool:
        """Whether an executor reserves so much more than its tasks are given now that it should be replaced when idle.

        An exclusive one has its devices alone whatever it reserves.
        """
        mib = self._sizes.get(executor.executor_class)
        return mib is not None and not executor.exclusive and is_oversize(executor.memory_mib, mib)
