"""Each outcome has one verdict, the documentation says which, and there is a row for each that provokes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from celeray.scheduler.backoff import RetryPolicy
from celeray.scheduler.outcomes import (
    Ack,
    GiveBack,
    History,
    Outcome,
    Park,
    PlaceAgain,
    RetryAt,
    Verdict,
    reason_of,
    settle,
)
from celeray.scheduler.parked import ParkReason
from tests.integration.outcome_rows import ELSEWHERE, ROWS

POLICY = RetryPolicy(kind="constant", base_s=10, max_attempts=2, jitter=0, never=("KeyError",))
ACKED = {Outcome.SUCCESS, Outcome.IGNORE, Outcome.CELERY_RETRY, Outcome.REVOKED, Outcome.EXPIRED}
RETRIED = {
    Outcome.EXCEPTION,
    Outcome.SOFT_TIME_LIMIT,
    Outcome.TIME_LIMIT,
    Outcome.HOST_MEMORY,
    Outcome.WORKER_LOST,
    Outcome.EXECUTOR_LOST,
    Outcome.NODE_LOST,
}
REQUEUED = RETRIED - {Outcome.EXCEPTION, Outcome.SOFT_TIME_LIMIT} | {Outcome.REJECT}
ARCHITECTURE = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text(encoding="utf-8")


def final(outcome: Outcome) -> Verdict:
    return Ack() if outcome in ACKED else Park(reason_of(outcome))


@pytest.mark.parametrize("outcome", Outcome)
def test_without_a_policy_an_end_is_final(outcome: Outcome) -> None:
    assert settle(outcome, History(), None) == final(outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_policy_retries_what_may_end_better(outcome: Outcome) -> None:
    assert settle(outcome, History(), POLICY) == (RetryAt(10) if outcome in RETRIED else final(outcome))
    assert settle(outcome, History(attempts=1), POLICY) == final(outcome)
    assert settle(outcome, History(errors=frozenset({"KeyError"})), POLICY) == final(outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_celery_requeues_goes_back_whatever_the_policy_says(outcome: Outcome) -> None:
    verdict = settle(outcome, History(requeues=True), POLICY)

    assert (verdict == GiveBack()) == (outcome in REQUEUED | {Outcome.EXCEPTION, Outcome.SOFT_TIME_LIMIT})


def test_out_of_gpu_memory_is_a_wrong_placement() -> None:
    assert settle(Outcome.GPU_MEMORY, History(may_place_again=True), POLICY) == PlaceAgain()


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - ACKED))
def test_what_parks_has_a_reason(outcome: Outcome) -> None:
    assert reason_of(outcome) in ParkReason


@pytest.mark.parametrize("outcome", sorted(ACKED))
def test_what_does_not_has_none(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match=outcome.value):
        reason_of(outcome)


def test_each_outcome_is_provoked_somewhere() -> None:
    provoked = {row.outcome for row in ROWS}

    assert provoked | set(ELSEWHERE) == set(Outcome)
    assert not provoked & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        assert (Path(__file__).parents[3] / place).exists()


def test_the_rows_expect_the_reasons_of_the_code() -> None:
    for row in ROWS:
        if row.outcome in ACKED:
            assert row.reason is None, row
        else:
            assert row.reason == reason_of(row.outcome), row


def test_the_table_in_the_documentation_is_the_code() -> None:
    section = ARCHITECTURE.split("## How a run ends")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    documented = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}

    assert set(documented) == {outcome.value for outcome in Outcome}
    for outcome in Outcome:
        _, verdict, retried, back = documented[outcome.value]
        end = final(outcome)
        assert verdict == (f"parked, `{end.reason}`" if isinstance(end, Park) else "acknowledged"), outcome
        assert (retried == "yes") == (outcome in RETRIED), outcome
        assert (back != "") == (outcome in REQUEUED), outcome
