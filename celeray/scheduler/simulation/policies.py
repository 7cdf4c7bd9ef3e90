"""The policies that a simulation compares, each with what it may know of the workload beforehand."""

from __future__ import annotations

import random
from collections.abc import Sequence

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.placement.policy import Order, Policy
from celeray.scheduler.placement.prior import Prior, prior_of
from celeray.scheduler.placement.scores import SCORES
from celeray.scheduler.simulation.tasks import TraceTask

POLICIES = ("default", "fgd", "best_fit", "first_fit", "spread")
"""Names of scores that are compared by default."""
SAMPLE_TASKS = 1_500
"""Tasks of which `default` learns the workload."""
SAMPLE_SEED_OFFSET = 1_000_000
"""Added to a run's seed, for the sample's own: the run under test is drawn independently of it."""
TUNING_SEEDS = range(1_000)
"""Of runs by which parameters are chosen. Never reported."""
REPORTING_SEEDS = range(1_000, 1_010)
"""Of runs that are reported: none of these was used to choose a parameter."""
ONE_BY_ONE = Order(aging_ms=0, reserve=False)
"""With it one cycle places all tasks one by one in their order, and what finds no room is never tried again."""


def policy_of(name: str, tasks: Sequence[TraceTask], *, seed: int, order: Order) -> Policy:
    """The policy with its prior: a sample for `default`, the whole trace for `fgd` as published, none for others.

    Args:
        tasks: the trace, not the tasks of the run.
        seed: of the run.

    Raises:
        ConfigurationError: there is no such policy.
    """
    if name not in SCORES:
        raise ConfigurationError(f"policy={name!r}: expected one of {', '.join(SCORES)}")
    return Policy(name=name, prior=_prior(name, tasks, seed), order=order)


def sample_size(tasks: Sequence[TraceTask]) -> int:
    """How many tasks `default` learns from: half of a small trace."""
    return min(SAMPLE_TASKS, len(tasks) // 2)


def prior_sources(tasks: Sequence[TraceTask]) -> dict[str, str]:
    """What each policy knows of the workload, in words."""
    sample = f"{sample_size(tasks)} tasks drawn from the trace with seed + {SAMPLE_SEED_OFFSET}"
    return {"default": sample, "fgd": f"all {len(tasks)} tasks of the trace"}


def _prior(name: str, tasks: Sequence[TraceTask], seed: int) -> Prior | None:
    if name == "fgd":
        return prior_of(task.request for task in tasks)
    if name != "default":
        return None
    draw = random.Random(seed + SAMPLE_SEED_OFFSET)  # noqa: S311 - a workload, no secret
    return prior_of(task.request for task in draw.sample(tasks, sample_size(tasks)))
