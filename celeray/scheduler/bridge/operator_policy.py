"""What the operator chose about placement, by the settings."""

from __future__ import annotations

from celeray.scheduler.placement.policy import WEIGHT_ONE, Order, Policy
from celeray.scheduler.settings import Settings


def policy_of_placement(settings: Settings) -> Policy:
    """What the operator chose about placement."""
    return Policy(
        headroom_mib=settings.vram_headroom_mib,
        exclusive_foreign_mib=settings.exclusive_foreign_mib,
        name=settings.placement_policy,
        order=Order(
            aging_ms=round(settings.priority_aging_s * 1000),
            overtaken_most=settings.overtaken_max,
            reserve=settings.reservation,
            shortest_first=settings.shortest_first,
            preempt=settings.preemption,
            unknown_run_ms=round(settings.unknown_run_s * 1000),
            tenant_weights_milli=tuple(
                (name, round(weight * WEIGHT_ONE)) for name, weight in sorted(settings.tenant_weights.items())
            ),
        ),
    )
