"""What a second pause makes of the first, and which names and reasons are kept. No Redis."""

from __future__ import annotations

import pytest

from celeray.scheduler.audit import checked_by, checked_why
from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.suspensions import Pause, suspended_anew

FIRST = Pause(by="a@host", at=100.0, why="driver update")


def test_a_queue_that_was_not_paused() -> None:
    assert suspended_anew(Pause, None, by="a@host", why="driver update", now=100.0) == FIRST


def test_the_same_reason_again_changes_nothing_not_even_who_gave_it() -> None:
    assert suspended_anew(Pause, FIRST, by="b@host", why="driver update", now=200.0) == FIRST


def test_another_reason_replaces_reason_and_name_and_keeps_the_time() -> None:
    changed = suspended_anew(Pause, FIRST, by="b@host", why="still broken", now=200.0)
    assert changed == Pause(by="b@host", at=100.0, why="still broken")


@pytest.mark.parametrize("text", ["", " ", "x" * 501, "two\nlines", "tab\t", "bell\x07", "\u2028"])
def test_a_reason_that_cannot_be_kept(text: str) -> None:
    with pytest.raises(OperatorInputError, match=r"why=.*500 printable"):
        checked_why(text)


def test_good_reasons_and_names() -> None:
    assert checked_why(" Treiber-Update für GPU 3 ") == "Treiber-Update für GPU 3"
    assert checked_why("x" * 500) == "x" * 500
    assert checked_by("token:0a1b2c3d") == "token:0a1b2c3d"
    with pytest.raises(OperatorInputError, match=r"by=.*200 printable"):
        checked_by("x" * 201)
