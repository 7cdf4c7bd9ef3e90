"""Waits of retry policies: their bounds, their growth, and what ends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from celeray.scheduler.backoff import ATTEMPTS_MOST, BUILT_IN, RetryPolicy, chosen, delay_s, retries
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

policies = st.builds(
    lambda kind, base, more, factor, jitter: RetryPolicy(
        kind=kind, base_s=base, max_s=base + more, factor=factor, jitter=jitter
    ),
    st.sampled_from(["exponential", "linear", "constant"]),
    st.floats(0, 1e5),
    st.floats(0, 1e6),
    st.floats(1, 100),
    st.floats(0, 1),
)
attempts = st.integers(1, ATTEMPTS_MOST)
chances = st.floats(0, 1)


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("default", [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        ("critical", [30, 45, 67.5, 101.25, 151.875]),
        ("batch", [300, 600, 900]),
    ],
)
def test_the_built_in_policies(name: str, waits: list[float]) -> None:
    policy = BUILT_IN[name]

    assert [delay_s(policy, attempt, 0) for attempt in range(1, len(waits) + 1)] == pytest.approx(waits)


def test_batch_retries_three_times() -> None:
    assert [retries(BUILT_IN["batch"], attempt, ()) for attempt in (1, 2, 3, 4)] == [True, True, True, False]


def test_critical_reaches_its_longest_wait() -> None:
    assert delay_s(BUILT_IN["critical"], 12, 0) == 1800


@given(policies, attempts, chances)
def test_no_wait_is_out_of_bounds(policy: RetryPolicy, attempt: int, chance: float) -> None:
    wait = delay_s(policy, attempt, chance)

    assert policy.base_s * (1 - policy.jitter) * (1 - 1e-9) <= wait <= policy.max_s


@given(policies, attempts)
def test_waits_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    assert delay_s(policy, attempt, 0) <= delay_s(policy, attempt + 1, 0) * (1 + 1e-9)


@given(policies, attempts, chances)
def test_chance_takes_away_no_more_than_the_jitter(policy: RetryPolicy, attempt: int, chance: float) -> None:
    whole = delay_s(policy, attempt, 0)

    assert whole * (1 - policy.jitter) * (1 - 1e-9) <= delay_s(policy, attempt, chance) <= whole


def test_no_wait_at_all() -> None:
    policy = RetryPolicy(base_s=0, max_s=0)

    assert [delay_s(policy, attempt, 0.5) for attempt in (1, 2, 1000)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("never", "expected"),
    [
        (("KeyError",), False),
        (("builtins.KeyError",), False),
        (("LookupError",), False),
        (("ValueError",), True),
    ],
)
def test_what_is_never_retried(never: tuple[str, ...], expected: bool) -> None:
    names = {"KeyError", "builtins.KeyError", "LookupError", "builtins.LookupError", "Exception"}

    assert retries(RetryPolicy(never=never), 1, names) is expected


def test_the_policy_of_a_task() -> None:
    patterns = {"film.*": "default", "film.render*": "critical", "film.render.still": "batch"}

    assert chosen("film.render.still", patterns) == "batch"
    assert chosen("film.render.moving", patterns) == "critical"
    assert chosen("film.cut", patterns) == "default"
    assert chosen("music.cut", patterns) is None


def test_the_settings_choose_it() -> None:
    settings = Settings(
        retry_policies={"a.*": "own", "b.*": "batch"}, custom_retry_policies={"own": RetryPolicy(base_s=7)}
    )

    assert settings.retry_policy_of("a.b") == RetryPolicy(base_s=7)
    assert settings.retry_policy_of("b.c") == BUILT_IN["batch"]
    assert settings.retry_policy_of("c.d") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retry_policies": {"a.*": "own"}}, r"retry_policies\.a\.\*='own'.*'batch', 'critical', 'default'"),
        ({"custom_retry_policies": {"own": {"base_s": -1}}}, r"own\.base_s=-1: .*greater than or equal to 0"),
        ({"custom_retry_policies": {"own": {"max_attempts": 0}}}, r"own\.max_attempts=0"),
        ({"custom_retry_policies": {"own": {"jitter": 1.5}}}, r"own\.jitter=1\.5"),
        ({"custom_retry_policies": {"own": {"kind": "square"}}}, r"own\.kind='square'"),
        ({"custom_retry_policies": {"own": {"base": 1}}}, r"own\.base=1"),
        ({"custom_retry_policies": {"own": {"base_s": 9, "max_s": 8}}}, r"max_s=8.*base_s=9"),
        ({"custom_retry_policies": {"own": {"never": ["no name"]}}}, r"never='no name'"),
    ],
)
def test_bad_settings_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Settings.load(None, **given)


def test_a_policy_is_a_value() -> None:
    with pytest.raises(ValidationError):
        RetryPolicy().base_s = 1  # type: ignore[misc]
