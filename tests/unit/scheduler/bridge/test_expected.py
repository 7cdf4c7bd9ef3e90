"""How long runs are expected to take, by what their like took."""

from __future__ import annotations

from celeray.scheduler.bridge.expected import NAMES_MAX, RUNS_MAX, RUNS_MIN, ExpectedTimes


def test_of_a_few_runs_nothing_is_concluded() -> None:
    times = ExpectedTimes()
    for _ in range(RUNS_MIN - 1):
        times.learn("film.render", 2.0)
    assert times.expected_ms("film.render") is None
    times.learn("film.render", 2.0)
    assert 2000 <= (times.expected_ms("film.render") or 0) <= 2032
    assert times.expected_ms("film.other") is None


def test_it_is_the_95th_percentile() -> None:
    times = ExpectedTimes()
    for second in range(1, 101):
        times.learn("t", second)
    expected = times.expected_ms("t") or 0
    assert 90_000 <= expected <= 98_000


def test_what_is_new_counts_more() -> None:
    times = ExpectedTimes()
    for _ in range(RUNS_MAX):
        times.learn("t", 60.0)
    for _ in range(3 * RUNS_MAX):
        times.learn("t", 1.0)
    assert 1000 <= (times.expected_ms("t") or 0) <= 1100


def test_only_so_many_names_are_kept() -> None:
    times = ExpectedTimes()
    for _ in range(RUNS_MIN):
        times.learn("first", 1.0)
    for number in range(NAMES_MAX):
        times.learn(f"t{number}", 1.0)
    assert times.expected_ms("first") is None
