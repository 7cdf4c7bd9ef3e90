"""What an operator may choose about placement."""

from __future__ import annotations

from dataclasses import dataclass

from celeray.scheduler.placement.prior import Prior

WEIGHT_ONE = 1_000
"""The weight 1 of a tenant, in thousandths."""


@dataclass(frozen=True, slots=True)
class Order:
    """How waiting tasks are ordered, and what may go before whom."""

    aging_ms: int = 60_000
    """A waiting task rises by one priority in this time, up to 9. 0: it never does."""
    overtaken_most: int = 1_000
    """So often may tasks of lower priority be placed where a waiting task could run; then they wait for it."""
    reserve: bool = True
    """Keep room for the first task that has no place."""
    shortest_first: bool = True
    """Once room is kept for a task, the others of its and of each priority come in the order of their expected run."""
    preempt: bool = False
    """Runs that are preemptible may be ended for an urgent task that has no place."""
    unknown_run_ms: int = 3_600_000
    """How long a run is taken to last of which nothing is known."""
    tenant_weights_milli: tuple[tuple[str, int], ...] = ()
    """Weights of tenants by name, in thousandths. A tenant that is not named here has the weight 1."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Parameters of a placement cycle. Memory in MiB."""

    headroom_mib: int = 0
    """Kept free on each device; counts against what could ever fit."""
    exclusive_foreign_mib: int = 1024
    """A device with more foreign memory than this is not whole."""
    name: str = "default"
    """Of the scores: a key of `scores.SCORES`."""
    prior: Prior | None = None
    """What usually comes, which some scores price the rest of a device by. None: nothing is known."""
    order: Order = Order()
