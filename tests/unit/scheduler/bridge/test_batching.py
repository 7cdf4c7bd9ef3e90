"""How many runs go together, as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.bridge.batching import (
    BUDGET,
    SHORT_IN_A_ROW,
    RunTimes,
    batch_length,
    fair_share,
)

SHORT_S = 0.010
MEANS = st.lists(st.none() | st.floats(0, 0.1, allow_nan=False), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("means", "most", "length"),
    [
        ([None], 100, 1),
        ([0.5], 100, 1),
        ([None, 0.001, 0.001], 100, 1),
        ([0.001, None, 0.001], 100, 1),
        ([0.001, 0.5, 0.001], 100, 1),
        ([2**-10] * 100, 100, 20),
        ([0.001] * 100, 7, 7),
        ([0.0] * 100, 100, 100),
        ([0.009] * 100, 100, 2),
        ([SHORT_S] * 100, 100, 1),
        ([0.001] * 100, 1, 1),
    ],
)
def test_how_many_go_together(means: list[float | None], most: int, length: int) -> None:
    assert batch_length(means, most, SHORT_S) == length


@given(MEANS, st.integers(1, 400))
def test_a_batch_is_within_its_bounds_and_no_run_could_have_been_added(
    means: list[float | None], most: int
) -> None:
    length = batch_length(means, most, SHORT_S)
    assert 1 <= length <= max(1, most)
    batch, rest = means[:length], means[length:]
    if length > 1:
        known = [mean for mean in batch if mean is not None]
        assert len(known) == length
        assert max(known) < SHORT_S
        assert sum(known) <= BUDGET * SHORT_S + 1e-9
    if rest and length < most and all(mean is not None and mean < SHORT_S for mean in batch):
        following = rest[0]
        too_much = following is None or following >= SHORT_S
        assert too_much or sum(mean or 0 for mean in batch) + (following or 0) > BUDGET * SHORT_S - 1e-9


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_shares_cover_all_and_leave_nobody_idle(waiting: int, executors: int) -> None:
    left, shares = waiting, []
    for still in range(executors, 0, -1):
        shares.append(min(left, fair_share(left, still)))
        left -= shares[-1]
    assert left == 0
    assert max(shares) - min(shares) <= 1


SHORT = st.floats(0, SHORT_S, exclude_max=True)


@given(st.lists(SHORT, min_size=SHORT_IN_A_ROW, max_size=50))
def test_a_prediction_lies_between_what_was_seen(seconds: list[float]) -> None:
    times = RunTimes(SHORT_S)
    for each in seconds:
        times.learn("c", "t", each)
    predicted = times.predicted("c", "t")
    assert predicted is not None
    assert min(seconds) - 1e-9 <= predicted <= max(seconds) + 1e-9
    assert times.predicted("c", "other") is times.predicted("other", "t") is None


@given(st.lists(st.one_of(SHORT, st.floats(SHORT_S, 100)), max_size=50))
def test_nothing_is_predicted_until_enough_in_a_row_were_short(seconds: list[float]) -> None:
    times = RunTimes(SHORT_S)
    in_a_row = 0
    for each in seconds:
        times.learn("c", "t", each)
        in_a_row = in_a_row + 1 if each < SHORT_S else 0
    assert (times.predicted("c", "t") is not None) == (in_a_row >= SHORT_IN_A_ROW)


def test_one_long_run_keeps_a_task_out_of_batches_for_a_while() -> None:
    times = RunTimes(SHORT_S)
    times.learn("c", "t", 0.001)
    times.learn("c", "t", 60.0)
    alone = 0
    while batch_length([times.predicted("c", "t")] * 2, 2, SHORT_S) == 1:
        times.learn("c", "t", 0.001)
        alone += 1
    assert 60 <= alone <= 100
