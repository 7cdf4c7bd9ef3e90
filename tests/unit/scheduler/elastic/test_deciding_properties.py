"""What holds of every decision."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.elastic.deciding import Ask, NodeUse, Situation, decide
from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.model import NodeState, WaitingTask, WarmExecutor

from .samples import executor, kind, node, situation, task

SIZES = (4, 8, 12, 24, 40, None)


@st.composite
def backlogs(draw: st.DrawFn) -> list[WaitingTask]:
    count = draw(st.integers(0, 30))
    return [
        task(
            number,
            draw(st.sampled_from(SIZES)),
            draw(st.sampled_from((None, 0.5, 20.0, 90.0, 2000.0))),
            gpus=draw(st.sampled_from((1, 1, 1, 2, 4))),
        )
        for number in range(count)
    ]


@st.composite
def types(draw: st.DrawFn) -> dict[str, NodeType]:
    found = {}
    for name in draw(st.sets(st.sampled_from(("a", "b", "c")), min_size=1)):
        most = draw(st.integers(0, 4))
        found[name] = kind(
            draw(st.sampled_from((1, 2, 4))),
            draw(st.sampled_from(("16GiB", "24GiB", "80GiB"))),
            most,
            min=draw(st.integers(0, most)),
            start_s=draw(st.sampled_from((5.0, 60.0, 300.0))),
        )
    return found


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    known = draw(types())
    name = st.sampled_from(sorted(known))
    nodes: list[NodeState] = [node(f"n{number}") for number in range(draw(st.integers(0, 3)))]
    executors: list[WarmExecutor] = [
        executor(
            number,
            f"{item.node_id}/{number % 2}",
            8,
            idle=draw(st.booleans()),
            ends_s=draw(st.sampled_from((None, 1.0, 500.0))),
        )
        for number, item in enumerate(nodes)
        if draw(st.booleans())
    ]
    uses = {
        item.node_id: NodeUse(
            draw(name), draw(st.sampled_from((0.0, 1000.0))), draw(st.booleans()), draw(st.booleans())
        )
        for item in nodes
        if draw(st.booleans())
    }
    asks = [
        Ask(f"a{number}", draw(name), draw(st.floats(0, 1000))) for number in range(draw(st.integers(0, 4)))
    ]
    away = {f"away{number}": draw(name) for number in range(draw(st.integers(0, 2)))}
    return situation(
        draw(backlogs()), *nodes, executors=executors, types=known, uses=uses, away=away, asks=asks
    )


@given(situations())
@settings(max_examples=60, deadline=None)
def test_never_above_max_never_below_min_and_the_same_each_time(found: Situation) -> None:
    decision = decide(found)

    there = Counter(use.type for use in found.nodes.values()) + Counter(found.away.values())
    for name, of_type in found.types.items():
        wanted = decision.wanted[name]
        assert wanted >= 0
        assert wanted == 0 or wanted + there[name] <= of_type.max
        mine = sum(use.type == name and use.leased for use in found.nodes.values())
        gone = sum(found.nodes[node_id].type == name for node_id in decision.release)
        assert gone == 0 or mine - gone >= of_type.min
    assert set(decision.take_back) <= set(found.away)
    assert decide(found) == decision


@given(situations())
@settings(max_examples=40, deadline=None)
def test_nothing_that_runs_something_is_given_back(found: Situation) -> None:
    released = set(decide(found).release)

    busy = {item.node_id for item in found.snapshot.executors if not item.idle}
    assert not released & busy
    assert all(found.nodes[node_id].leased for node_id in released)


@given(situations())
@settings(max_examples=15, deadline=None)
def test_an_empty_backlog_wants_nothing(found: Situation) -> None:
    decision = decide(replace(found, waiting=()))

    assert set(decision.wanted.values()) == {0}
    assert decision.take_back == ()


@given(situations(), backlogs())
@settings(max_examples=60, deadline=None)
def test_what_comes_behind_never_lowers_what_is_wanted(found: Situation, more: list[WaitingTask]) -> None:
    behind = [replace(item, sequence=1000 + item.sequence, arrived_ms=1) for item in more]

    before, after = decide(found), decide(replace(found, waiting=(*found.waiting, *behind)))

    assert all(after.wanted[name] >= count for name, count in before.wanted.items())
    assert set(after.take_back) >= set(before.take_back)


@given(types(), st.sampled_from(SIZES), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_task_that_only_a_type_can_hold_gets_exactly_one(
    known: dict[str, NodeType], gib: int | None, gpus: int
) -> None:
    alone = task(0, gib, gpus=gpus)
    could = [
        name
        for name, of_type in known.items()
        if of_type.max and of_type.gpus >= gpus and (gib is None or of_type.vram_mib >= gib * 1024)
    ]

    assert sum(decide(situation([alone], types=known)).wanted.values()) == min(1, len(could))
