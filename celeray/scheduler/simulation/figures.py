"""What an online run came to, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from celeray.scheduler.simulation.nodes import NodeSpec, capacity_mib
from celeray.scheduler.simulation.online import OnlineRun

WARM_UP = 0.2
"""Share of the arrivals before utilisation is counted: the cluster begins empty."""
SHORT_RUN_MS = 10_000
"""Shorter runs count as this long in the slowdown: a wait of a second before a run of one is no slowdown of 2."""


@dataclass(frozen=True, slots=True)
class OnlineFigures:
    """Waits in seconds; None where there is nothing to say it of."""

    wait_mean_s: float | None
    wait_p95_s: float | None
    wait_p99_s: float | None
    multi_device_wait_mean_s: float | None
    """Of tasks with several devices. Always to be read beside the mean of all: few tasks, and the first to starve."""
    slowdown: float | None
    """Mean of (wait + run) / run, at least 1."""
    utilisation_pct: float | None
    """VRAM in use over time, from the arrival of the first fifth to the last arrival."""
    wait_mean_s_by_service: dict[str, float]
    wait_percentiles_s: tuple[float, ...]
    """Longest wait of the best 0, 1, ... 100 % of the tasks."""
    multi_device_tasks: int
    never_fit: int
    unplaced: int
    cycles: int
    microseconds_a_decision: float | None
    microseconds_a_cycle: float | None


def online_figures(run: OnlineRun, nodes: Sequence[NodeSpec]) -> OnlineFigures:
    """The figures of a run on these nodes."""
    waits: list[int] = []
    multi: list[int] = []
    slowdowns: list[float] = []
    by_service: dict[str, list[int]] = {}
    for start in run.starts:
        arrival = run.arrivals[start.sequence]
        wait = start.at_ms - arrival.at_ms
        waits.append(wait)
        slowdowns.append(max(1.0, (wait + arrival.run_ms) / max(arrival.run_ms, SHORT_RUN_MS)))
        by_service.setdefault(arrival.task.service, []).append(wait)
        if arrival.task.request.gpus > 1:
            multi.append(wait)
    ordered = sorted(waits)
    return OnlineFigures(
        wait_mean_s=_mean_s(waits),
        wait_p95_s=_percentile_s(ordered, 95),
        wait_p99_s=_percentile_s(ordered, 99),
        multi_device_wait_mean_s=_mean_s(multi),
        slowdown=fmean(slowdowns) if slowdowns else None,
        utilisation_pct=_utilisation_pct(run, nodes),
        wait_mean_s_by_service={name: fmean(found) / 1_000 for name, found in sorted(by_service.items())},
        wait_percentiles_s=tuple(_percentile_s(ordered, pct) or 0.0 for pct in range(101)),
        multi_device_tasks=len(multi),
        never_fit=run.never_fit,
        unplaced=run.unplaced,
        cycles=run.cycles,
        microseconds_a_decision=1e6 * run.seconds / run.decided if run.decided else None,
        microseconds_a_cycle=1e6 * run.seconds / run.cycles if run.cycles else None,
    )


def _mean_s(waits_ms: Sequence[int]) -> float | None:
    return fmean(waits_ms) / 1_000 if waits_ms else None


def _percentile_s(ordered_ms: Sequence[int], pct: int) -> float | None:
    """By nearest rank."""
    if not ordered_ms:
        return None
    return ordered_ms[max(0, math.ceil(len(ordered_ms) * pct / 100) - 1)] / 1_000


def _utilisation_pct(run: OnlineRun, nodes: Sequence[NodeSpec]) -> float | None:
    if not run.arrivals:
        return None
    begin, end = run.arrivals[int(len(run.arrivals) * WARM_UP)].at_ms, run.arrivals[-1].at_ms
    if end <= begin:
        return None
    used = 0
    for start in run.starts:
        ends = start.at_ms + run.arrivals[start.sequence].run_ms
        held_ms = max(0, min(ends, end) - max(start.at_ms, begin))
        used += held_ms * start.placement.memory_mib * len(start.placement.device_uuids)
    return 100 * used / (capacity_mib(nodes) * (end - begin))
