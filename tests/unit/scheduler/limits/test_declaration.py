"""What a limit may say, and what is refused with key, value and bound."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.time import rate as celery_rate
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.errors import ConfigurationError, LimitError
from celeray.scheduler.limits.declaration import LimitDeclaration, declared, interval_of
from celeray.scheduler.settings import Settings


@pytest.mark.parametrize("rate", ["10/s", "100/m", "5/h", "0.5/s", "10", 10, 0.25])
def test_rates_mean_what_celery_means_by_them(rate: Any) -> None:
    assert interval_of(rate) == pytest.approx(1 / celery_rate(rate))


@given(st.integers(1, 10_000), st.sampled_from("smh"))
def test_any_rate_in_bounds_is_read_as_celery_reads_it(count: int, letter: str) -> None:
    assert 1 / interval_of(f"{count}/{letter}") == pytest.approx(celery_rate(f"{count}/{letter}"))


@pytest.mark.parametrize(
    "rate",
    ["", "0", "0/s", "-1/s", "10/d", "ten/s", "10/", "1e3/s", "20000/s", "0.0001/h", True, float("nan"), 0],
)
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(LimitError) as refused:
        declared({"rate": rate})
    assert refused.value.key == "rate"
    assert refused.value.value == rate or refused.value.value != refused.value.value
    assert "'10/s'" in refused.value.bound


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ({}, "limits"),
        ("10/s", "limits"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": "3"}, "concurrency"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"rate": "1/s", "burst": 0}, "burst"),
        ({"concurrency": 1, "burst": 2}, "limits"),
        ({"rate": "1/s", "per": "user"}, "per"),
        ({"rate": "1/s", "key": "user_id"}, "key"),
        ({"rate": "1/s", "key": "kwargs.user.id"}, "key"),
        ({"rate": "1/s", "key": "args.-1"}, "key"),
        ({"rate": "1/s", "key": 3}, "key"),
    ],
)
def test_what_is_no_limit_is_refused(option: Any, key: str) -> None:
    with pytest.raises(LimitError) as refused:
        declared(option)
    assert refused.value.key == key


@pytest.mark.parametrize("key", ["kwargs.user_id", "args.0", "headers.limit_key", "kwargs.größe"])
def test_keys(key: str) -> None:
    assert declared({"concurrency": 1, "key": key}).key == key


@pytest.mark.parametrize(
    ("option", "burst"),
    [
        ({"rate": "5/h"}, 1),
        ({"rate": "10/s"}, 1),
        ({"rate": "15/s"}, 2),
        ({"rate": "20/s"}, 2),
        ({"rate": "1000/s"}, 100),
        ({"rate": "10/s", "burst": 7}, 7),
    ],
)
def test_a_tenth_of_a_second_may_begin_at_once(option: dict[str, Any], burst: int) -> None:
    assert declared(option).runs_at_once == burst


def test_the_setting_is_checked_as_a_whole() -> None:
    settings = Settings(limits={"film.*": {"rate": "10/m"}})
    assert settings.limits == {"film.*": LimitDeclaration(rate="10/m")}
    with pytest.raises(ConfigurationError, match=r"limits.film\.\*.rate='often'.*'10/s'"):
        Settings.load(limits={"film.*": {"rate": "often"}})
