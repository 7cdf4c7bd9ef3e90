"""Which chords wait for the outcome of a request, and which runs are of a message that was sent again."""

from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context

from celeray.scheduler.letters.chords import memberships
from celeray.scheduler.letters.tags import is_redriven, redriven_tag


def found(**request: Any) -> list[tuple[str, str]]:
    return list(memberships(Context({"id": "t", "task": "x", **request})))


def step(task_id: str | None, **options: Any) -> dict[str, Any]:
    return {"task": "x", "options": {"task_id": task_id, **options}, "subtask_type": None}


def test_its_own() -> None:
    assert found(group="g", group_index=3, chord={"task": "body"}) == [("g", "t:3")]
    assert found(group="g", chord={"task": "body"}) == [("g", "t:+inf")]
    assert found(group="g") == found(chord={"task": "body"}) == found() == []


def test_those_of_its_chain() -> None:
    last = step("last", group_id="g", group_index=1, chord={"task": "body"})
    assert found(chain=[last, step("next")]) == [("g", "last:1")]
    assert found(chain=[step(None, group_id="g", chord={"task": "body"})]) == []


def test_of_a_chord_in_the_chain_its_bodys() -> None:
    body = step("inner", group_id="outer", group_index=0, chord={"task": "body"})
    nested = {"task": "celery.chord", "options": {}, "kwargs": {"body": body}, "subtask_type": "chord"}
    assert found(chain=[nested]) == [("outer", "inner:0")]


@pytest.mark.parametrize(
    "chain", [[None], ["x"], [{}], [{"options": None, "subtask_type": "chord", "kwargs": None}]]
)
def test_what_is_no_signature_is_passed_over(chain: list[Any]) -> None:
    assert found(chain=chain) == []


def test_a_run_of_a_message_that_was_sent_again() -> None:
    def run(properties: Any) -> bool:
        return is_redriven(Context({"id": "t", "task": "x", "properties": properties}))

    assert run({"delivery_tag": redriven_tag()})
    assert redriven_tag() != redriven_tag()
    assert not any(
        run(properties) for properties in (None, {}, {"delivery_tag": "1f0c"}, {"delivery_tag": 7})
    )
