"""Flags, effective priorities, and what they are on either kind of broker."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler import priorities
from celeray.scheduler.errors import FlagError
from celeray.scheduler.priorities import Flags, checked, effective, from_broker, read_flags, to_broker


@pytest.mark.parametrize("priority", range(1, 11))
def test_both_brokers_give_back_what_was_sent(priority: int) -> None:
    for lowest_first in (True, False):
        sent = to_broker(priority, lowest_first=lowest_first)
        assert from_broker(sent, priority, lowest_first=lowest_first) == priority


@pytest.mark.parametrize(("priority", "redis"), [(10, 0), (5, 5), (1, 9)])
def test_redis_serves_0_first(priority: int, redis: int) -> None:
    assert to_broker(priority, lowest_first=True) == redis
    assert to_broker(priority, lowest_first=False) == priority


class TestStockProducers:
    @pytest.mark.parametrize("unset", [None, 0])
    @pytest.mark.parametrize("lowest_first", [True, False])
    def test_unset_is_the_default(self, unset: Any, lowest_first: bool) -> None:
        assert from_broker(unset, None, lowest_first=lowest_first) == 5

    def test_set_is_understood_in_the_sense_of_the_broker(self) -> None:
        assert from_broker(3, None, lowest_first=True) == 7
        assert from_broker(3, None, lowest_first=False) == 3

    @pytest.mark.parametrize("value", [255, 10, 99])
    def test_out_of_range_is_clamped(self, value: int) -> None:
        assert from_broker(value, None, lowest_first=False) == 10
        assert from_broker(value, None, lowest_first=True) == 1

    @pytest.mark.parametrize("value", ["high", 1.5, True])
    def test_no_number_is_the_default(self, value: Any) -> None:
        assert from_broker(value, None, lowest_first=True) == 5


class TestHeader:
    def test_10_is_told_from_unset(self) -> None:
        assert from_broker(0, 10, lowest_first=True) == 10

    def test_one_that_disagrees_with_the_broker_was_overtaken(self) -> None:
        assert from_broker(0, 5, lowest_first=True) == 10
        assert from_broker(8, 5, lowest_first=False) == 8

    def test_one_clamped_to_9_by_the_transport_agrees(self) -> None:
        assert from_broker(9, 10, lowest_first=False) == 10

    def test_it_counts_where_the_broker_says_nothing(self) -> None:
        assert from_broker(None, 8, lowest_first=True) == 8

    @pytest.mark.parametrize("header", ["8", 0, 11, True, None])
    def test_an_unusable_one_is_none(self, header: Any) -> None:
        assert from_broker(2, header, lowest_first=True) == 8
        assert from_broker(None, header, lowest_first=False) == 5


class TestEffective:
    @pytest.mark.parametrize(
        ("base", "flags", "expected"),
        [
            (5, Flags(), 5),
            (5, Flags(user_initiated=True), 7),
            (9, Flags(user_initiated=True), 10),
            (5, Flags(batch_size=10), 5),
            (5, Flags(batch_size=11), 4),
            (1, Flags(batch_size=11), 1),
            (5, Flags(user_initiated=True, batch_size=11), 6),
            (10, Flags(user_initiated=True, batch_size=11), 10),
        ],
    )
    def test_flags_move_the_base_within_bounds(self, base: int, flags: Flags, expected: int) -> None:
        assert effective(base, flags) == expected

    @pytest.mark.parametrize(("option", "expected"), [(0, 1), (1, 1), (10, 10)])
    def test_the_option_of_celery_may_be_0(self, option: int, expected: int) -> None:
        assert checked(option) == expected

    @pytest.mark.parametrize("option", [-1, 11, 2.0, "5", True, float("nan")])
    def test_any_other_option_is_refused(self, option: Any) -> None:
        with pytest.raises(FlagError) as caught:
            checked(option)
        assert str(caught.value) == f"priority={option!r}: {priorities.BOUND}"


class TestFlags:
    def test_headers_come_before_kwargs_each_by_itself(self) -> None:
        flags = read_flags({"priority": 8}, {"priority": 2, "user_initiated": True, "batch_size": 20})
        assert flags == Flags(priority=8, user_initiated=True, batch_size=20)

    def test_kwargs_are_left_as_they_are(self) -> None:
        kwargs = {"priority": 3, "priority_task": True}
        assert read_flags(None, kwargs) == Flags(priority=3, priority_task=True)
        assert kwargs == {"priority": 3, "priority_task": True}

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"priority": "high"},
            {"priority": 50},
            {"priority": 0},
            {"priority": True},
            {"priority_task": "no"},
            {"user_initiated": 1},
            {"batch_size": 2.5},
            {"batch_size": -3},
            {"batch_size": None},
        ],
    )
    def test_a_kwarg_that_can_not_be_a_flag_is_the_tasks_own(self, kwargs: dict[str, Any]) -> None:
        assert read_flags({}, kwargs) == Flags()

    @pytest.mark.parametrize(
        "headers",
        [
            {"priority": "high"},
            {"priority": 0},
            {"priority": 11},
            {"priority": 5.0},
            {"priority_task": 1},
            {"user_initiated": "yes"},
            {"batch_size": -1},
            {"batch_size": True},
        ],
    )
    def test_a_bad_header_is_an_error(self, headers: dict[str, Any]) -> None:
        with pytest.raises(FlagError) as caught:
            read_flags(headers, {"priority": 5})
        assert caught.value.key in headers
        assert caught.value.bound in str(caught.value)

    def test_none_is_no_flag(self) -> None:
        assert read_flags({"priority": None}, {"priority": 4}) == Flags(priority=4)
