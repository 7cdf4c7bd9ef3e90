"""Runs of several seeds as one row of figures: means, and the range of what is compared most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, methodcaller
from statistics import fmean
from typing import Any

from celeray.scheduler.simulation.figures import OnlineFigures
from celeray.scheduler.simulation.inflation import InflationRun

READ_AT_PCT = (90, 95, 100, 120, 130)


def inflation_summary(runs: Sequence[InflationRun]) -> dict[str, Any]:
    """Means over the runs, by the names that `scripts/bench` and `celeray simulate` print."""
    at_full = [run.allocation_at(100) for run in runs]

    def mean(figure: Callable[[InflationRun], float], digits: int = 2) -> float:
        return round(fmean(map(figure, runs)), digits)

    refused = [run.first_refused_pct for run in runs if run.first_refused_pct is not None]
    return {
        **{f"allocation_at_{pct}_pct": mean(methodcaller("allocation_at", pct)) for pct in READ_AT_PCT},
        "allocation_at_100_pct_range": [round(min(at_full), 2), round(max(at_full), 2)],
        "idle_gpus_at_100": mean(lambda run: run.idle_devices[0], 1),
        "idle_gpus_at_130": mean(lambda run: run.idle_devices[1], 1),
        "fragment_pct_at_100": mean(lambda run: run.fragment_pct),
        "failed_tasks_at_100": mean(lambda run: run.failed[0], 1),
        "failed_tasks_at_130": mean(lambda run: run.failed[1], 1),
        "first_refused_at_pct": round(fmean(refused), 2) if refused else None,
        "microseconds_a_decision": mean(lambda run: run.microseconds_a_decision, 1),
    }


def inflation_curve(runs: Sequence[InflationRun]) -> list[float]:
    """Mean allocation at 1, 2, ... 130 % arrived."""
    return [round(fmean(values), 3) for values in zip(*(run.allocation_pct for run in runs), strict=True)]


def online_summary(runs: Sequence[OnlineFigures]) -> dict[str, Any]:
    """Means over the runs of those that have the figure."""

    def mean(figure: Callable[[OnlineFigures], float | None], digits: int = 1) -> float | None:
        found = [value for run in runs if (value := figure(run)) is not None]
        return round(fmean(found), digits) if found else None

    services = sorted({name for run in runs for name in run.wait_mean_s_by_service})
    return {
        "wait_mean_s": mean(attrgetter("wait_mean_s")),
        "wait_p95_s": mean(attrgetter("wait_p95_s")),
        "wait_p99_s": mean(attrgetter("wait_p99_s")),
        "multi_device_wait_mean_s": mean(attrgetter("multi_device_wait_mean_s")),
        "multi_device_tasks": mean(attrgetter("multi_device_tasks")),
        "slowdown": mean(attrgetter("slowdown"), 2),
        "utilisation_pct": mean(attrgetter("utilisation_pct"), 2),
        "wait_mean_s_by_service": {name: mean(partial(_wait_of, name)) for name in services},
        "never_fit": mean(attrgetter("never_fit")),
        "unplaced": mean(attrgetter("unplaced")),
        "microseconds_a_decision": mean(attrgetter("microseconds_a_decision")),
        "microseconds_a_cycle": mean(attrgetter("microseconds_a_cycle")),
    }


def _wait_of(service: str, run: OnlineFigures) -> float | None:
    return run.wait_mean_s_by_service.get(service)


def wait_curve(runs: Sequence[OnlineFigures]) -> list[float]:
    """Mean of the longest wait of the best 0, 1, ... 100 % of the tasks, in seconds."""
    return [round(fmean(values), 3) for values in zip(*(run.wait_percentiles_s for run in runs), strict=True)]
