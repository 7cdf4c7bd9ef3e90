"""What the rest of a device is worth."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.placement.prices import WHOLE, cutting_prices, worth_table
from celeray.scheduler.placement.prior import Prior, PriorShape
from celeray.scheduler.placement.rooms import PARTS


def shared(*sizes: int, weight: int = 1) -> Prior:
    return Prior(tuple(PriorShape(1, size, 0, weight=weight) for size in sizes))


def test_a_size_that_fills_a_device_alone_is_worth_all_of_it() -> None:
    worth = worth_table(shared(810), 1000)
    assert worth[809] == 0
    assert worth[810] == worth[1000] == WHOLE


def test_sizes_that_pair_are_worth_a_half_each() -> None:
    worth = worth_table(shared(500), 1000)
    assert [worth[part] for part in (499, 500, 999, 1000)] == [0, WHOLE // 2, WHOLE // 2, WHOLE]


def test_what_fits_into_the_leftovers_of_others_is_worth_nothing() -> None:
    prices = cutting_prices(((190, 10), (810, 100)))
    assert round(prices[190]) == 0
    assert round(prices[810]) == WHOLE


def test_what_leftovers_are_too_few_for_has_a_price() -> None:
    prices = cutting_prices(((190, 1000), (810, 100)))
    assert prices[190] > WHOLE // 6


def test_sizes_of_another_device_are_measured_on_this_one() -> None:
    small, large = worth_table(shared(12_000), 12_000), worth_table(shared(12_000), 24_000)
    assert small[999] == 0
    assert large[500] == WHOLE // 2
    none = worth_table(shared(48_000), 24_000)
    assert none[999] == 0, "what never fits leaves only whole devices"
    assert none[1000] == WHOLE


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.integers(1, 50)), min_size=1, max_size=8, unique_by=lambda p: p[0]
    )
)
@settings(max_examples=25, deadline=None)
def test_two_rests_are_never_worth_more_apart_than_together(sizes: list[tuple[int, int]]) -> None:
    prior = Prior(tuple(PriorShape(1, size, 0, weight=weight) for size, weight in sizes))
    worth = worth_table(prior, 1000)
    assert worth[0] == 0
    assert worth[PARTS] == WHOLE, "no pattern is worth more than the device"
    assert (np.diff(worth) >= 0).all()
    for left in range(0, PARTS + 1, 37):
        parts = np.arange(PARTS + 1 - left)
        assert (worth[parts + left] >= worth[parts] + worth[left] - 2 * len(sizes)).all()
