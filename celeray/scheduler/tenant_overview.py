"""Tenants from what every bridge wrote. Pure."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.overview import Overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import TenantStatus


class TenantList(BaseModel):
    """As REST sends it."""

    model_config = ConfigDict(frozen=True)

    tenants: tuple[TenantStatus, ...]


def tenants(overview: Overview, settings: Settings) -> tuple[TenantStatus, ...]:
    """Every tenant that a bridge shows or that has a weight, those first that have something running or waiting.

    Each bridge knows what all have used; the one that wrote last knows best.
    """
    seen = [
        item for bridge in sorted(overview.bridges, key=lambda b: b.written_at) for item in bridge.tenants
    ]
    used = {item.tenant: item.used_mib_s for item in seen}
    waiting, running = Counter[str](), Counter[str]()
    for item in seen:
        waiting[item.tenant] += item.waiting
        running[item.tenant] += item.running
    total = sum(used.values())
    totals = {use.tenant: use.mib_s for use in overview.totals.tenants}
    found = [
        TenantStatus(
            tenant=name,
            weight=settings.tenant_weights.get(name, 1.0),
            waiting=waiting[name],
            running=running[name],
            used_mib_s=used.get(name, 0.0),
            share=used.get(name, 0.0) / total if total else None,
            total_mib_s=totals.get(name, 0.0),
        )
        for name in {*used, *settings.tenant_weights}
    ]
    return tuple(sorted(found, key=lambda one: (-one.running, -one.waiting, -one.used_mib_s, one.tenant)))
