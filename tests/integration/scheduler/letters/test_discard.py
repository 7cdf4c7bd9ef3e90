"""Discarding letters, by operators and by age and number."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from celeray.scheduler.clock import ManualClock
from celeray.scheduler.duties.old_letters import OldLetters
from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from tests.integration.scheduler.letters.conftest import hold_of
from tests.integration.scheduler.letters.test_redrive import trail
from tests.integration.scheduler.transport.conftest import Broker


def test_discard_by_filter_and_ids(discard: Discard, park: Any, broker: Broker, letters: Letters) -> None:
    for number in range(300):
        park(f"{number}", reason="poison" if number % 2 else "other")
    chosen = Selection(filter=LetterFilter(reason="other"))
    found = discard.run(chosen, by="ops", why="old", dry_run=True)
    assert (found.dry_run, found.matched, found.discarded) == (True, 150, 150)
    assert (letters.count(), trail(broker)) == (300, [])
    assert discard.run(chosen, by="ops", why="old").discarded == 150
    done = discard.run(Selection(ids=("1", "2", "2")), by="ops", why="seen")
    assert (done.discarded, done.skipped_by_reason) == (1, {"not among the dead letters": 1})
    assert letters.count() == 149
    assert trail(broker) == [
        ("discard", "ops", "1 dead letters by id: 1 2 2", "seen"),
        ("discard", "ops", "150 dead letters by filter: reason=other", "old"),
    ]


def test_a_reason_is_needed(discard: Discard, park: Any, letters: Letters) -> None:
    park("a")
    for selection, why in ((Selection(all=True), " "), (Selection(), "why")):
        with pytest.raises(OperatorInputError):
            discard.run(selection, by="ops", why=why)
    assert letters.count() == 1


def test_a_key_that_was_never_let_go_is_free(discard: Discard, park: Any, broker: Broker) -> None:
    digest = hold_of("a")
    park("a", headers={"celeray_hold": f"{digest}:id-a-1"})
    broker.client.hset(f"celeray:dedup:{digest}", mapping={"id": "id-a", "m:id-a-1": "1"})
    discard.run(Selection(all=True), by="ops", why="x")
    assert broker.client.exists(f"celeray:dedup:{digest}") == 0


def test_the_keeper_forgets_the_old_and_what_is_too_much(
    park: Any, letters: Letters, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(1_000_000.0)
    for number in range(700):
        park(f"{number:03}", at=clock.time() - number)
    park("rubbish", message=b"{", at=clock.time() - 1)
    broker.client.hset("celeray:parked", "unknown", b"\xc1")
    duty = OldLetters(letters, retention_s=600, most=400)
    with caplog.at_level(logging.WARNING):
        said = duty.run_once(clock.time())
    assert said == (
        "99 dead letters forgotten, older than 600 s, 203 dead letters forgotten, more than the 400 that are kept"
    )
    assert "99 dead letters are forgotten" in caplog.text
    assert "203 dead letters are forgotten" in caplog.text
    left = {letter.id for letter in letters.walk()}
    # What has no time known is the first to go, and has no age.
    assert left == {*(f"{number:03}" for number in range(399)), "rubbish"}
    assert duty.run_once(clock.time()) == ""
    clock.advance(601)
    assert duty.run_once(clock.time()) == "400 dead letters forgotten, older than 600 s"
    assert trail(broker) == []


def test_what_has_no_time_is_not_too_old(letters: Letters, broker: Broker) -> None:
    broker.client.hset("celeray:parked", "unknown", b"\xc1")
    assert OldLetters(letters, retention_s=60, most=10).run_once(1e9) == ""
    assert letters.count() == 1
