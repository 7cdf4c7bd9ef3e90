"""How long a keeper waits while Redis does not answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.duties.keeper import BACKOFF_MAX_S, backoff_s


def test_it_doubles_to_a_bound() -> None:
    assert [backoff_s(failures, 1.0) for failures in (1, 2, 3, 7, 8, 10_000)] == [
        0.5,
        1.0,
        2.0,
        30.0,
        30.0,
        30.0,
    ]


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_half_of_it_is_chance(failures: int, chance: float) -> None:
    longest = backoff_s(failures, 1.0)
    assert longest / 2 <= backoff_s(failures, chance) <= longest <= BACKOFF_MAX_S
