"""Buckets against the exact figures, for any observations in any order, from any number of bridges."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.learned.histogram import bucket, merged, quantile, summarize

MIB = st.integers(1, 16 * 1024 * 1024)
SEEN = st.lists(MIB, min_size=1, max_size=200)


def counted(observations: Sequence[int]) -> Counter[int]:
    return Counter(map(bucket, observations))


def exact(observations: Sequence[int], percent: int) -> int:
    """By nearest rank, of the observations themselves."""
    return sorted(observations)[max(1, -(-len(observations) * percent // 100)) - 1]


@given(MIB)
def test_a_bucket_is_a_little_above_what_is_in_it_and_its_own_bound(mib: int) -> None:
    upper = bucket(mib)
    assert mib <= upper <= mib + mib // 64
    assert bucket(upper) == upper


@given(MIB)
def test_buckets_lie_in_the_order_of_what_is_in_them(mib: int) -> None:
    assert bucket(mib) <= bucket(mib + 1)


@pytest.mark.parametrize("gib", [1, 2, 5, 12, 14, 24, 40, 63])
def test_whole_gib_are_exact(gib: int) -> None:
    assert bucket(gib * 1024) == gib * 1024


def test_nothing_used_is_nothing_observed() -> None:
    with pytest.raises(ValueError, match="0 MiB: at least 1"):
        bucket(0)
    assert summarize({}) is None
    with pytest.raises(ValueError, match="no observations"):
        quantile({}, 50)


@given(SEEN, st.integers(1, 100))
def test_a_quantile_is_never_below_the_exact_one_and_at_most_a_sixty_fourth_above(
    observations: list[int], percent: int
) -> None:
    found, true = quantile(counted(observations), percent), exact(observations, percent)
    assert true <= found <= true + true // 64


@given(st.lists(SEEN, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_bridges_add_up_to_what_one_would_have_seen(parts: list[list[int]], chance: random.Random) -> None:
    everything = [mib for part in parts for mib in part]
    histograms = [counted(part) for part in parts]
    chance.shuffle(histograms)
    assert merged(histograms) == counted(everything)


@given(SEEN)
def test_a_summary_has_the_quantiles_in_their_order(observations: list[int]) -> None:
    found = summarize(counted(observations))
    assert found is not None
    assert found.count == len(observations)
    assert found.p50_mib <= found.p95_mib <= found.max_mib == bucket(max(observations))


def test_of_ten_runs_the_largest_is_the_95th_percentile() -> None:
    found = summarize(counted([*[1024] * 9, 5120]))
    assert found is not None
    assert (found.p50_mib, found.p95_mib) == (1024, 5120)
