"""Counters survive the way through flat series, also between versions with other buckets."""

from __future__ import annotations

from celeray.scheduler.counters import Counters, TenantUse
from celeray.scheduler.metrics import BOUNDS
from celeray.scheduler.series import from_series, to_series
from tests.status_samples import counters


def test_series_and_back() -> None:
    made = counters()
    bounds = {"placement": (0.5, 1.0), "execution": ()}
    assert from_series(to_series(made), bounds) == made


def test_what_tenants_used_goes_there_and_back() -> None:
    made = Counters(tenants=(TenantUse(tenant="", mib_s=0.5), TenantUse(tenant='a "b"', mib_s=1e12)))
    assert from_series(to_series(made), BOUNDS) == made


def test_nothing_is_nothing() -> None:
    assert to_series(Counters()) == {}
    assert from_series({}, BOUNDS) == Counters()


def test_bounds_of_another_version_are_kept_beside_our_own() -> None:
    made = from_series(to_series(counters()), {"placement": (0.1, 0.5), "execution": ()}).placement[0]
    assert made.bounds == (0.1, 0.5)
    assert made.counts == (0, 2, 1)
    foreign = from_series({'["placement","q","n","sum"]': 3.0, '["placement","q","n","le",7.5]': 2.0}, BOUNDS)
    assert foreign.placement[0].bounds == tuple(sorted((*BOUNDS["placement"], 7.5)))
    assert sum(foreign.placement[0].counts) == 2
