"""The sides taking turns: in each repetition each is started alone, warmed, measured and stopped.

So neither pays for the other's idling, and a machine that slows down during the run slows both.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import latency, throughput
from benchmarks.sides import Side, settings_in_force

QUICK_RUN_S = 1.0
QUICK_SAMPLES = 30
RATIOS = {"prefork": "ratio", "prefork-plain": "ratio_to_plain"}
"""Under which key the bridge's rate over that side's is shown."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how much of it."""

    sides: Sequence[Side]
    repetitions: int
    throughput: bool
    latency: bool
    quick: bool
    log_directory: Path


@dataclass
class Measurements:
    """What was measured so far, by side."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    drains: dict[tuple[str, str], list[throughput.Drain]] = field(default_factory=lambda: defaultdict(list))
    """By mode and side."""
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds."""


def compare(plan: Plan) -> dict[str, Any]:
    """The report's parts that need workers."""
    measured = Measurements()
    for repetition in range(plan.repetitions):
        for side in plan.sides:
            _say(f"repetition {repetition + 1} of {plan.repetitions}: {side.name}")
            _measure_side(side, plan, measured)
    report: dict[str, Any] = {"settings": measured.settings}
    if plan.throughput:
        report["throughput"] = {mode: throughput_figures(measured, mode) for mode in throughput.MODES}
    if plan.latency:
        report["latency_ms"] = {name: latency_figures(taken) for name, taken in measured.latencies.items()}
    return report


def _measure_side(side: Side, plan: Plan, measured: Measurements) -> None:
    with side.start(plan.log_directory / f"{side.name}.log") as worker:
        measured.settings[side.name] = settings_in_force(side, worker)
        if plan.latency:
            samples = QUICK_SAMPLES if plan.quick else latency.SAMPLES
            measured.latencies[side.name] += latency.measure_latency(side, samples=samples)
        for mode in throughput.MODES if plan.throughput else ():
            run_s = QUICK_RUN_S if plan.quick else throughput.RUN_S
            drain = throughput.measure_drain(side, worker, mode, run_s=run_s)
            _say(f"  {mode}: {drain.messages} messages in {drain.seconds:.2f} s, {drain.rate:.0f} tasks/s")
            measured.drains[mode, side.name].append(drain)


def throughput_figures(measured: Measurements, mode: str) -> dict[str, Any]:
    """Medians in tasks a second, their ratio, and the single runs."""
    runs = {name: drains for (kind, name), drains in measured.drains.items() if kind == mode}
    rates = {name: statistics.median(drain.rate for drain in drains) for name, drains in runs.items()}
    shown: dict[str, Any] = {name: round(rate, 1) for name, rate in rates.items()}
    for stock, ratio in RATIOS.items():
        if {stock, "bridge"} <= rates.keys():
            shown[ratio] = round(rates["bridge"] / rates[stock], 2)
    shown["cpu_us"] = {name: _cpu_us(drains) for name, drains in runs.items()}
    shown["runs"] = {
        name: [{"messages": drain.messages, "seconds": round(drain.seconds, 3)} for drain in drains]
        for name, drains in runs.items()
    }
    return shown


def _cpu_us(drains: Sequence[throughput.Drain]) -> dict[str, int]:
    """Microseconds of CPU time a task, by process, over all runs."""
    messages = sum(drain.messages for drain in drains)
    roles = {role for drain in drains for role in drain.cpu_s}
    return {
        role: round(sum(drain.cpu_s.get(role, 0.0) for drain in drains) / messages * 1e6)
        for role in sorted(roles)
    }


def latency_figures(taken: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds of samples in seconds."""
    cuts = statistics.quantiles(taken, n=100)
    return {"p50": round(cuts[49] * 1e3, 3), "p99": round(cuts[98] * 1e3, 3), "samples": len(taken)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
