"""A dead member of a chord, sent again, completes the chord: once, in order, whatever was forgotten meanwhile."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import _state, chain, chord, group, states
from celery.exceptions import ChordError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu import pools

from tests.integration.scheduler.letters.chord_runs import ChordRuns

# redis-py says that of what Celery calls to store a result without a fence.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
DAY_S = 24 * 3600


@pytest.fixture
def make_runs(redis_url: str) -> Iterator[Callable[..., ChordRuns]]:
    pools.reset()
    before = _state._tls.current_app
    made: list[ChordRuns] = []

    def make(**options: Any) -> ChordRuns:
        made.append(ChordRuns(redis_url, **options))
        # What Celery makes of a group that came in a message belongs to the current app, as in a worker.
        made[-1].app.set_current()
        return made[-1]

    yield make
    _state._set_current_app(before)
    for each in made:
        each.close()
    gc.collect()


@pytest.fixture
def runs(make_runs: Callable[..., ChordRuns]) -> ChordRuns:
    return make_runs()


def start(runs: ChordRuns, names: str) -> Any:
    """A chord of parts with these letters; its body's result."""
    return chord([runs.part.s(name) for name in names], runs.body.s())()


def die_and_complete(runs: ChordRuns, dead: str, result: Any) -> Any:
    """Run all with a dead member, forget what Celery keeps, send it again; what the result is then."""
    runs.failing = {dead}
    runs.run_all()
    assert runs.stored(result.id)[0] == states.FAILURE
    runs.expire()
    runs.failing = set()
    runs.redrive(dead)
    runs.run_all()
    status, value = runs.stored(result.id)
    assert status == states.SUCCESS
    return value


def content(raw: bytes) -> tuple[bytes, str]:
    """What must stay: the headers as they are written, and the body."""
    text, document = raw.decode(), json.loads(raw)
    at = text.index('"headers": ')
    return text[at : text.index('"properties": ')].encode(), document["body"]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_hour_later_it_completes_the_chord(make_runs: Callable[..., ChordRuns], ordered: bool) -> None:
    runs = make_runs() if ordered else make_runs(result_chord_ordered=False)
    runs.failing = {"b"}
    body = start(runs, "abc")
    runs.run("a", "b", "c")
    status, error = runs.stored(body.id)
    assert (status, type(error)) == (states.FAILURE, ChordError)
    assert all(DAY_S < runs.redis.ttl(key) <= DAY_S + 3600 for key in runs.records())
    assert len(runs.records()) == 3
    runs.expire()
    runs.failing = set()
    original = runs.parked["b"]
    assert (runs.redrive("b").sent, runs.redrive("b").sent) == (1, 0)
    ((_, sent),) = runs.queued()
    assert content(sent) == content(original)
    assert runs.run("b") == [states.SUCCESS]
    assert runs.waiting() == ["body"]
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b", "c"] if ordered else ["a", "c", "b"])
    assert runs.records() == []


def test_the_failure_of_the_body_gives_way_while_it_is_still_stored(runs: ChordRuns) -> None:
    runs.failing = {"a"}
    body = start(runs, "ab")
    runs.run_all()
    assert runs.stored(body.id)[0] == states.FAILURE
    runs.failing = set()
    runs.redrive("a")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])


def test_of_several_dead_members_the_last_one_brings_the_body(runs: ChordRuns) -> None:
    runs.failing = {"a", "c"}
    body = start(runs, "abc")
    runs.run_all()
    runs.expire()
    runs.failing = set()
    runs.redrive("a")
    runs.run_all()
    assert runs.stored(body.id)[0] == states.PENDING
    # What the first one brought is kept as well.
    runs.expire()
    runs.redrive("c")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b", "c"])


def test_sent_again_before_the_others_ended(runs: ChordRuns) -> None:
    runs.failing = {"a"}
    body = start(runs, "ab")
    runs.run("a")
    runs.failing = set()
    runs.redrive("a")
    runs.run("a")
    assert runs.waiting() == ["b"]
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])


def test_another_member_that_failed_is_still_told(runs: ChordRuns) -> None:
    runs.failing = {"a", "b"}
    body = start(runs, "abc")
    runs.run("a", "b")
    runs.failing = {"b"}
    runs.redrive("a")
    runs.run_all()
    assert isinstance(runs.stored(body.id)[1], ChordError)


def test_it_may_fail_again(runs: ChordRuns) -> None:
    runs.failing = {"b"}
    body = start(runs, "ab")
    runs.run_all()
    runs.expire()
    runs.redrive("b")
    runs.run_all()
    assert isinstance(runs.stored(body.id)[1], ChordError)
    runs.expire()
    runs.failing = set()
    runs.redrive("b")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])


def test_a_step_before_the_last_of_a_chain(runs: ChordRuns) -> None:
    header = [chain(runs.part.si("x"), runs.part.si("y")), runs.part.si("b")]
    assert die_and_complete(runs, "x", chord(header, runs.body.s())()) == ["y", "b"]


def test_a_header_that_is_more_than_a_list(runs: ChordRuns) -> None:
    nested = chain(runs.part.si("x"), group(runs.part.si("y"), runs.part.si("z")))
    assert die_and_complete(runs, "b", chord([nested, runs.part.si("b")], runs.body.s())()) == [
        ["y", "z"],
        "b",
    ]


def test_results_that_are_joined_live_until_the_last_member(runs: ChordRuns) -> None:
    nested = chain(runs.part.si("x"), group(runs.part.si("y"), runs.part.si("z")))
    runs.failing = {"a", "b"}
    body = chord([nested, runs.part.si("a"), runs.part.si("b")], runs.body.s())()
    runs.run_all()
    runs.expire()
    runs.failing = set()
    runs.redrive("a")
    runs.run_all()
    # The chord itself waits longer than results are kept.
    runs.expire("celery-task-meta-*")
    runs.redrive("b")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, [["y", "z"], "a", "b"])


def test_a_chord_in_the_header(runs: ChordRuns) -> None:
    """Celery tells the outer body nothing of a dead member of the inner chord: it waits."""
    inner = chord([runs.part.si("x"), runs.part.si("y")], runs.body.s())
    runs.failing = {"x"}
    body = chord([inner, runs.part.si("b")], runs.body.s())()
    runs.run_all()
    runs.failing = set()
    runs.redrive("x")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, [["x", "y"], "b"])


def test_what_follows_from_the_body_follows(runs: ChordRuns) -> None:
    header = [runs.part.s("a"), runs.part.s("b")]
    result = chain(chord(header, runs.body.s()), runs.after.s())()
    assert die_and_complete(runs, "a", result) == ["after", ["a", "b"]]


def test_a_retry_of_the_run_that_opened_it_completes_it(runs: ChordRuns) -> None:
    runs.retrying = {"a"}
    assert die_and_complete(runs, "a", start(runs, "ab")) == ["a", "b"]


def test_a_run_that_died_after_it_opened_the_chord_is_made_up_for(runs: ChordRuns) -> None:
    runs.failing = {"a"}
    body = start(runs, "ab")
    runs.run_all()
    runs.expire()
    runs.failing = set()
    runs.redrive("a")
    member = json.loads(runs.parked["a"])["headers"]["id"]
    runs.app.backend.reopen_chord(body.parent.id, f"{member}:0")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])
    # Of a chord that is complete nothing is left to open.
    runs.app.backend.reopen_chord(body.parent.id, f"{member}:0")
    assert runs.records() == []


def test_a_group_as_the_body_is_not_revoked(runs: ChordRuns) -> None:
    runs.failing = {"a"}
    bodies = chord([runs.part.s("a"), runs.part.s("b")], group(runs.body.s(1), runs.body.s(2)))()
    runs.run_all()
    ids = [result.id for result in bodies.results]
    assert [runs.stored(task_id)[0] for task_id in ids] == [states.FAILURE] * 2
    assert runs.app.control.revokes.read().task_ids == ()
    runs.expire()
    runs.failing = set()
    runs.redrive("a")
    runs.run_all()
    assert [runs.stored(task_id) for task_id in ids] == [(states.SUCCESS, ["a", "b"])] * 2


def test_the_body_is_not_published_before_it_was_told(runs: ChordRuns) -> None:
    """Somebody holds the claim of a chord: the run that opens it waits until that one is done, or gone."""
    runs.failing = {"a"}
    body = start(runs, "ab")
    runs.run("a")
    key = runs.app.backend.get_key_for_group(body.parent.id, ".c")
    runs.redis.set(key, "somebody", px=400)
    runs.failing = set()
    runs.redrive("a")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])


def test_a_frozen_chord_that_is_applied_again_is_another_one(runs: ChordRuns) -> None:
    frozen = chord([runs.part.s("a"), runs.part.s("b")], runs.body.s())
    frozen.freeze()
    runs.failing = {"a"}
    frozen.apply_async()
    runs.run_all()
    # Celery itself would count the parts of the failed run for the next one.
    runs.expire()
    assert runs.records()
    runs.failing = {"b"}
    body = frozen.apply_async()
    runs.run_all()
    runs.failing = set()
    runs.redrive("b")
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])


def test_a_chord_without_a_failure_keeps_nothing_and_costs_no_call_more(
    runs: ChordRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls(record_s: int) -> dict[str, int]:
        monkeypatch.setitem(vars(runs.app.backend), "_record_ttl_s", record_s)
        for name in ("_chord_part_return_script", "_chord_cleanup_script"):
            vars(runs.app.backend).pop(name, None)
        body = start(runs, "ab")
        # Both scripts are known to the server from here on.
        runs.run_all()
        body = start(runs, "ab")
        runs.redis.config_resetstat()
        runs.run_all()
        stats = runs.redis.info("commandstats")
        assert runs.stored(body.id) == (states.SUCCESS, ["a", "b"])
        return {
            name: stats[f"cmdstat_{name}"]["calls"]
            for name in ("evalsha", "set", "setex")
            if f"cmdstat_{name}" in stats
        }

    with_record = calls(DAY_S)
    assert runs.records() == []
    assert with_record["evalsha"] == calls(0)["evalsha"]


STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, expiries=st.sets(st.integers(0, 11)))
def test_however_it_goes_the_body_comes_once_when_all_have_succeeded(
    runs: ChordRuns, steps: list[tuple[str, bool]], expiries: set[int]
) -> None:
    runs.redis.flushdb()
    runs.parked.clear()
    body, done = start(runs, "abcd"), set[str]()

    def run(name: str, fails: bool) -> None:
        if name in runs.parked and name not in runs.waiting():
            assert runs.redrive(name).sent == 1
        if name not in runs.waiting():
            return
        runs.failing = {name} if fails else set()
        if runs.run(name) == [states.SUCCESS]:
            done.add(name)
            runs.parked.pop(name, None)

    for number, (name, fails) in enumerate([*steps, *((name, False) for name in "abcd")]):
        if number in expiries and runs.parked:
            runs.expire()
        run(name, fails)
        assert runs.waiting().count("body") == (len(done) == 4)
    assert len(done) == 4
    runs.run_all()
    assert runs.stored(body.id) == (states.SUCCESS, ["a", "b", "c", "d"])
