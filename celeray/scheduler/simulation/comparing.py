"""Several policies on the same runs: what `celeray simulate` and `scripts/bench --placement` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from celeray.scheduler.placement.policy import Order
from celeray.scheduler.simulation.figures import OnlineFigures, online_figures
from celeray.scheduler.simulation.inflation import InflationRun, run_inflation
from celeray.scheduler.simulation.nodes import NodeSpec
from celeray.scheduler.simulation.online import run_online
from celeray.scheduler.simulation.policies import ONE_BY_ONE, policy_of
from celeray.scheduler.simulation.tasks import TraceTask
from celeray.scheduler.simulation.workload import Arrival, poisson, recorded


def _tell_nobody(_: str) -> None:
    """Progress is not wanted."""


@dataclass(frozen=True)
class Comparison:
    """What is compared on what."""

    tasks: Sequence[TraceTask]
    nodes: Sequence[NodeSpec]
    policies: Sequence[str]
    seeds: Sequence[int]
    tell: Callable[[str], None] = field(default=_tell_nobody)
    """Called with a line after each run."""


def compare_inflation(wanted: Comparison) -> dict[str, list[InflationRun]]:
    """The inflation experiment: runs of each policy, in the order of the seeds."""
    found: dict[str, list[InflationRun]] = {name: [] for name in wanted.policies}
    for name, runs in found.items():
        for seed in wanted.seeds:
            policy = policy_of(name, wanted.tasks, seed=seed, order=ONE_BY_ONE)
            runs.append(run_inflation(wanted.tasks, wanted.nodes, policy, seed=seed))
            wanted.tell(
                f"{name}, seed {seed}: {runs[-1].allocation_at(100):.2f} % allocated at 100 % arrived"
            )
    return found


def compare_load(
    wanted: Comparison, *, load: float, count: int, order: Order
) -> dict[str, list[OnlineFigures]]:
    """Tasks drawn from the trace for a wanted load: runs of each policy, in the order of the seeds."""
    found: dict[str, list[OnlineFigures]] = {name: [] for name in wanted.policies}
    for seed in wanted.seeds:
        arrivals = poisson(wanted.tasks, wanted.nodes, load=load, count=count, seed=seed)
        for name, runs in found.items():
            runs.append(_online(wanted, name, seed, arrivals, order))
    return found


def compare_replay(wanted: Comparison, *, order: Order) -> dict[str, list[OnlineFigures]]:
    """The trace as it was recorded. Only a policy's sample of the trace goes by the seed."""
    arrivals = recorded(wanted.tasks)
    return {
        name: [_online(wanted, name, seed, arrivals, order) for seed in wanted.seeds]
        for name in wanted.policies
    }


def _online(
    wanted: Comparison, name: str, seed: int, arrivals: Sequence[Arrival], order: Order
) -> OnlineFigures:
    policy = policy_of(name, wanted.tasks, seed=seed, order=order)
    figures = online_figures(run_online(arrivals, wanted.nodes, policy), wanted.nodes)
    wanted.tell(f"{name}, seed {seed}: {figures.wait_mean_s or 0:.1f} s mean wait")
    return figures
