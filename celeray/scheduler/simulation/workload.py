"""When tasks arrive and how long they run: as a trace recorded it, or drawn from it for a wanted load."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.simulation.nodes import NodeSpec, capacity_mib, device_count
from celeray.scheduler.simulation.tasks import TraceTask

SHORTEST_S = 1.0
"""Shorter runs of a trace failed at once, or were not measured: no load is drawn from them."""
LONGEST_S = 4 * 3_600.0
"""Longer runs are cut, so that a run of the simulator reaches a steady state."""
TASKS = 12_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task that comes at a time and runs for a time, both on the simulation's clock."""

    task: TraceTask
    at_ms: int
    run_ms: int


def recorded(tasks: Sequence[TraceTask]) -> list[Arrival]:
    """The trace as it was, from 0. Tasks whose arrival or run time isn't known are left out.

    Raises:
        ConfigurationError: none is left.
    """
    known = [
        (task.arrived_s, task.run_s, task)
        for task in tasks
        if task.arrived_s is not None and task.run_s is not None
    ]
    if not known:
        raise ConfigurationError("the trace has no task with a time of arrival and a run time")
    first = min(arrived for arrived, _, _ in known)
    arrivals = [
        Arrival(task, round(1_000 * (arrived - first)), max(1, round(1_000 * run)))
        for arrived, run, task in known
    ]
    return sorted(arrivals, key=lambda arrival: arrival.at_ms)


def poisson(
    tasks: Sequence[TraceTask], nodes: Sequence[NodeSpec], *, load: float, count: int, seed: int
) -> list[Arrival]:
    """Tasks with devices drawn with replacement, arriving at random, so that they ask for exactly `load`.

    Args:
        load: VRAM asked for times run time, of the cluster's VRAM times the time until the last arrival.
        count: how many arrive.

    Raises:
        ConfigurationError: no task of the trace has a device and runs for a second.
    """
    # A list and not a set: what is drawn depends on the order.
    suitable = [task for task in tasks if task.request.gpus and (task.run_s or 0) >= SHORTEST_S]
    if not suitable:
        raise ConfigurationError(
            f"the trace has no task with a device that runs for {SHORTEST_S:g} s or longer"
        )
    draw = random.Random(seed)  # noqa: S311 - a workload, no secret
    drawn = draw.choices(suitable, k=count)
    runs = [round(1_000 * min(task.run_s or 0, LONGEST_S)) for task in drawn]
    capacity = capacity_mib(nodes)
    mean_device = capacity / device_count(nodes)
    work = sum(task.vram_mib(mean_device) * run for task, run in zip(drawn, runs, strict=True))
    times = list(accumulate(draw.expovariate(1.0) for _ in drawn))
    scale = work / (capacity * load) / times[-1]
    return [Arrival(task, round(at * scale), run) for task, at, run in zip(drawn, times, runs, strict=True)]
