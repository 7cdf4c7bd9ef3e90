"""Warm executors that have only just started are not ended in turns, and the cheapest to start again go first."""

from __future__ import annotations

import pytest

from celeray.scheduler.model import Reason, Snapshot
from celeray.scheduler.placement import place

from .clusters import POLICY, device, gpu, node, snapshot, task, warm


def one_model(stays_ms: int) -> Snapshot:
    return snapshot(
        node("a", device("a0", 24, 4, holders=1)),
        executors=(warm(1, "one", "a", "a0", gib=20, start_ms=3_000, stays_ms=stays_ms),),
    )


def test_a_model_that_has_just_loaded_serves_its_own_tasks_first() -> None:
    other, own = task(1, gpu(20), executor_class="other"), task(2, gpu(20), executor_class="one")
    decisions = place([other, own], one_model(stays_ms=9_000), POLICY)
    assert [p.executor_id for p in decisions.placements] == ["e1"]
    assert decisions.evictions == ()
    assert decisions.waiting == {1: Reason.WARM}
    assert decisions.reserved is None, "its own tasks may take as long as they do"


@pytest.mark.parametrize(
    ("stays_ms", "priority", "own_waits"),
    [(0, 5, True), (9_000, 8, True), (9_000, 5, False)],
    ids=["it stayed long enough", "more urgent than all of its own", "none of its own waits"],
)
def test_it_makes_room(stays_ms: int, priority: int, own_waits: bool) -> None:
    waiting = [task(1, gpu(20), priority, executor_class="other")]
    if own_waits:
        waiting.append(task(2, gpu(20), executor_class="one"))
    decisions = place(waiting, one_model(stays_ms), POLICY)
    assert decisions.evictions == ("e1",)
    assert decisions.waiting[1] is Reason.RECLAIMING


def test_the_one_that_is_cheapest_to_start_again_ends() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 4, holders=1), device("a1", 24, 4, holders=1)),
        executors=(
            warm(1, "slow", "a", "a0", gib=20, start_ms=40_000, last_used=1.0),
            warm(2, "quick", "a", "a1", gib=20, start_ms=2_000, last_used=9.0),
        ),
    )
    decisions = place([task(1, gpu(20), executor_class="new")], cluster, POLICY)
    assert decisions.evictions == ("e2",), "though it was used last"
