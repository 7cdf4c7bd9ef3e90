"""The checker of the fault suite finds what is wrong in a history, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import Findings, check
from tests.faults.history import History, Record, in_order

_clock = itertools.count()


def record(event: str, **facts: Any) -> Record:
    return {"event": event, "at": float(next(_clock)), "pid": 1, **facts}


def submitted(task_id: str, role: str = "work", event: str = "submit-ok", **facts: Any) -> list[Record]:
    return [record(event, id=task_id, role=role, **facts)]


def started(
    task_id: str,
    role: str = "work",
    run: str = "r1",
    tag: str | None = None,
    fence: int | None = 1,
    **facts: Any,
) -> list[Record]:
    return [
        record("start", id=task_id, role=role, run=run, tag=tag or f"tag-{task_id}", fence=fence, **facts)
    ]


def done(
    task_id: str, role: str = "work", run: str = "r1", fence: int | None = 1, **facts: Any
) -> list[Record]:
    """From the effect to the stored result."""
    return [
        record("effect", id=task_id, run=run, fence=fence),
        record("end", id=task_id, role=role, run=run, **facts),
        record("result-stored", id=task_id, run=run, fence=fence),
        record("result-seen", id=task_id, run=run),
    ]


def called_back(task_id: str, callback_id: str | None = None) -> list[Record]:
    callback_id = callback_id or f"{task_id}-callback"
    return started(callback_id, "callback", of=task_id) + done(callback_id, "callback")


def good(task_id: str = "a") -> list[Record]:
    return submitted(task_id) + started(task_id) + done(task_id) + called_back(task_id)


def chord(parts: list[str], given: list[str]) -> list[Record]:
    records = [item for part in parts for item in submitted(part, "part")]
    records += submitted("body", "body", parts=parts)
    records += [item for part in parts for item in started(part, "part") + done(part, "part")]
    return records + started("body", "body") + done("body", "body", parts=given)


def test_a_good_history_is_clean() -> None:
    found = check(good("a") + good("b") + chord(["p", "q"], ["q", "p"]))
    assert found.clean
    assert (found.acknowledged, found.starts, found.lost, found.doubled) == (5, 7, (), {})


def test_an_acknowledged_task_that_never_ended_is_lost() -> None:
    assert check(submitted("a")).lost == ("a",)
    assert check(submitted("a") + started("a")).lost == ("a",)


@pytest.mark.parametrize(
    ("missing", "what"),
    [("effect", "a:effect"), ("result-seen", "a:result")],
)
def test_what_belongs_to_a_task_can_be_lost(missing: str, what: str) -> None:
    assert check([item for item in good() if item["event"] != missing]).lost == (what,)


def test_a_callback_is_lost_where_it_never_ran_or_never_ended() -> None:
    alone = submitted("a") + started("a") + done("a")
    assert check(alone).lost == ("a:callback",)
    assert check(alone + started("x", "callback", of="a")).lost == ("a:callback",)


def test_what_is_uncertain_is_neither_lost_nor_unexpected() -> None:
    assert check(submitted("a", event="submit-unknown")).clean
    assert check(submitted("a", event="submit-unknown") + started("a") + done("a")).clean


def test_what_was_refused_or_never_submitted_must_not_run() -> None:
    assert check(submitted("a", event="submit-fail") + started("a")).unexpected == ("a",)
    assert check(started("b")).unexpected == ("b",)
    assert check(started("x", "callback", of="c")).unexpected == ("c",)


def test_a_repeated_start_is_counted_and_needs_a_crash() -> None:
    history = submitted("a") + started("a") + started("a", run="r2", fence=2) + done("a", run="r2", fence=2)
    history += called_back("a")
    found = check(history)
    assert (dict(found.repeated), found.recovered, found.doubled) == ({"a": 1}, ("a",), {})
    assert not found.clean
    assert check([record("fault", name="kill", crash=True), *history]).clean
    assert not check([record("fault", name="cut", crash=False), *history]).clean


def test_two_publications_are_a_doubled_message_and_no_repeated_start() -> None:
    found = check(good() + started("a", run="r2", tag="another"))
    assert found.doubled == {"message": ("a",)}
    assert not found.repeated


def test_doubled_result_effect_and_callback() -> None:
    again = done("a", run="r2", fence=2)
    found = check(good() + again + called_back("a", "second"))
    assert found.doubled == {"result": ("a",), "effect": ("a",), "callback": ("a",)}
    assert found.doubled_count == 3
    assert not found.clean


def test_a_result_stored_twice_by_one_run_is_one() -> None:
    assert check([*good(), record("result-stored", id="a", run="r1", fence=1)]).clean


def test_a_body_published_twice_is_doubled() -> None:
    found = check(chord(["p"], ["p"]) + started("body", "body", tag="another"))
    assert found.doubled == {"body": ("body",)}


@pytest.mark.parametrize("given", [["p", "p"], ["p"], ["p", "q", "q"], []])
def test_a_body_gets_each_part_once(given: list[str]) -> None:
    assert check(chord(["p", "q"], given)).doubled == {"part": ("body",)}


def test_a_write_under_an_old_fence_is_a_zombies() -> None:
    history = submitted("a") + started("a", fence=5) + started("a", run="r2", fence=9)
    late = check(history + done("a", run="r1", fence=5))
    assert late.zombies == ("a", "a")
    assert not check(history + done("a", run="r2", fence=9)).zombies
    assert not check(
        submitted("a") + started("a", fence=5) + done("a", fence=5) + started("a", fence=9)
    ).zombies


def test_runs_without_a_fence_are_no_zombies() -> None:
    assert not check(started("a", fence=None) + done("a", fence=None)).zombies


def test_the_summary_names_what_was_doubled() -> None:
    assert "doubled body 1, effect 2" in Findings(doubled={"effect": ("a", "b"), "body": ("c",)}).summary()
    assert "lost 0, doubled 0" in Findings().summary()


def test_a_history_is_read_in_the_order_of_its_times(tmp_path: Path) -> None:
    history = History(tmp_path / "lines")
    assert history.read() == []
    history.note("start", id="a")
    history.note("end", id="a")
    assert [item["event"] for item in history.read()] == ["start", "end"]
    (tmp_path / "lines" / "0.jsonl").write_text('{"event": "fault", "at": 0}\n')
    assert [item["event"] for item in history.read()] == ["fault", "start", "end"]
    with (tmp_path / "lines" / "0.jsonl").open("a") as file:
        file.write('{"event": "to')
    assert len(history.read()) == 3, "a torn line at the end is none yet"
    history.close()
    assert in_order([{"at": 2}, {"at": 1}]) == [{"at": 1}, {"at": 2}]
