"""What may be a tenant, and what it weighs."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.bridge.operator_policy import policy_of_placement
from celeray.scheduler.counters import Counters, TenantUse
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.overview import Overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import BridgeTenant, TaskRecord
from celeray.scheduler.tenant_overview import tenants
from celeray.scheduler.tenants import published_by
from tests.status_samples import bridge, record


def test_weights_are_thousandths_in_placement() -> None:
    settings = Settings.load(tenant_weights={"b": 0.5, "a": 3})
    assert policy_of_placement(settings).order.tenant_weights_milli == (("a", 3000), ("b", 500))


@pytest.mark.parametrize(
    "weights",
    [{"a": 0}, {"a": -1}, {"a": 1e7}, {"a": float("nan")}, {"": 1}, {"x" * 65: 1}, {"a\n": 1}, {"a": "much"}],
)
def test_a_weight_out_of_its_bound_is_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="tenant_weights"):
        Settings.load(tenant_weights=weights)


@pytest.mark.parametrize("seconds", [59, 31 * 86_400])
def test_a_half_life_out_of_its_bound_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="tenant_half_life_s"):
        Settings.load(tenant_half_life_s=seconds)


def test_what_a_stock_producer_has_named_badly_is_not_inherited() -> None:
    assert published_by({}, {"tenant": 7}) is None
    assert published_by({}, {"tenant": "a"}) == "a"
    assert published_by({}, None) is None


def test_the_overview_adds_what_bridges_hold_and_takes_use_from_who_wrote_last() -> None:
    old = bridge(written_at=1.0, tenants=(BridgeTenant(tenant="a", waiting=2, running=1, used_mib_s=10),))
    new = bridge(
        bridge_id="b2",
        written_at=2.0,
        tenants=(
            BridgeTenant(tenant="a", waiting=1, used_mib_s=30),
            BridgeTenant(tenant="", running=1, used_mib_s=10),
        ),
    )
    totals = Counters(tenants=(TenantUse(tenant="a", mib_s=500.0),))
    overview = Overview(at=3.0, bridges=[new, old], summaries=[], depths={}, unacked=0, totals=totals)
    found = {one.tenant: one for one in tenants(overview, Settings(tenant_weights={"a": 3, "c": 2}))}
    assert set(found) == {"a", "", "c"}
    a = found["a"]
    assert (a.weight, a.waiting, a.running, a.used_mib_s, a.total_mib_s) == (3, 3, 1, 30, 500)
    assert (a.share, found[""].share) == (0.75, 0.25)
    assert (found["c"].weight, found["c"].waiting) == (2, 0)


def test_a_record_of_an_older_bridge_has_no_tenant() -> None:
    assert TaskRecord.model_validate(record().model_dump(exclude={"tenant"})).tenant is None
