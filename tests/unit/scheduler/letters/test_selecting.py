"""Filters and selections: what they let through, and that nothing is done by an empty one."""

from __future__ import annotations

import pytest

from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.letters.record import Letter
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter

LETTER = Letter(
    id="a",
    task_id="1",
    task="film.scenes.analyze",
    queue="gpu.x",
    priority=5,
    reason="poison",
    detail="",
    parked_at=100.0,
    begun=3,
    size=1,
)


@pytest.mark.parametrize(
    ("chosen", "matches"),
    [
        ({}, True),
        ({"queue": "gpu.x"}, True),
        ({"queue": "gpu"}, False),
        ({"task": "film.*.analyze"}, True),
        ({"task": "film.?"}, False),
        ({"task": "FILM.*"}, False),
        ({"reason": "poison"}, True),
        ({"reason": "a new one"}, False),
        ({"since": 100.0}, True),
        ({"since": 100.1}, False),
        ({"until": 100.0}, False),
        ({"until": 100.1}, True),
        ({"queue": "gpu.x", "reason": "unreadable"}, False),
    ],
)
def test_filters(chosen: dict[str, object], matches: bool) -> None:
    assert LetterFilter.model_validate(chosen).matches(LETTER) is matches


def test_a_letter_without_a_task_has_an_empty_name() -> None:
    nameless = LETTER.model_copy(update={"task": None})

    assert LetterFilter(task="*").matches(nameless)
    assert LetterFilter(task="").matches(nameless)
    assert not LetterFilter(task="film*").matches(nameless)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(ids=()),
        Selection(filter=LetterFilter()),
        Selection(ids=("a",), all=True),
        Selection(ids=("a",), filter=LetterFilter(queue="q")),
        Selection(filter=LetterFilter(queue="q"), all=True),
    ],
)
def test_nothing_or_two_things_said_is_refused(selection: Selection) -> None:
    with pytest.raises(OperatorInputError):
        selection.check()


def test_what_goes_to_the_trail_is_one_line() -> None:
    assert str(Selection(all=True)) == "of all"
    assert str(Selection(filter=LetterFilter(queue="q", since=1.0))) == "by filter: queue=q since=1.0"
    assert str(Selection(ids=("a", "b", "c", "d"))) == "by id: a b c ..."
    assert str(Selection(ids=("a\nb" + "c" * 500,))).isprintable()
    assert len(str(Selection(ids=("c" * 500,)))) == 200
