"""Waiting for a busy warm executor is weighed against starting another, both in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.model import Reason, ResourceRequest, Snapshot, WarmExecutor
from celeray.scheduler.placement import place

from .clusters import POLICY, device, gpu, node, snapshot, task, warm


def busy(
    number: int, device_uuid: str, *, start_ms: int, free_in_ms: int | None, gib: int = 4
) -> WarmExecutor:
    executor = warm(number, "model", "a", device_uuid, gib=gib, start_ms=start_ms)
    return replace(executor, idle=False, ends_in_ms=free_in_ms or 60_000, free_in_ms=free_in_ms)


def with_room(*executors: WarmExecutor) -> Snapshot:
    return snapshot(node("a", device("a0", 24, 12, holders=len(executors))), executors=executors)


def test_one_that_is_free_sooner_than_a_start_takes_is_waited_for() -> None:
    cluster = with_room(busy(1, "a0", start_ms=8_000, free_in_ms=3_000))
    decisions = place([task(1, gpu(4), executor_class="model")], cluster, POLICY)
    assert decisions.placements == ()
    assert decisions.waiting == {1: Reason.BUSY}
    assert decisions.reserved is None


@pytest.mark.parametrize(
    ("start_ms", "free_in_ms"),
    [(8_000, 8_001), (8_000, None), (0, 1)],
    ids=["a start is sooner", "its end is not known, or overdue", "what a start takes is not known"],
)
def test_else_another_one_starts(start_ms: int, free_in_ms: int | None) -> None:
    cluster = with_room(busy(1, "a0", start_ms=start_ms, free_in_ms=free_in_ms))
    decisions = place([task(1, gpu(4), executor_class="model")], cluster, POLICY)
    assert [p.executor_id for p in decisions.placements] == [None]


def test_each_is_waited_for_by_one_task_only() -> None:
    cluster = with_room(
        busy(1, "a0", start_ms=8_000, free_in_ms=3_000), busy(2, "a0", start_ms=8_000, free_in_ms=1_000)
    )
    waiting = [task(number, gpu(4), executor_class="model") for number in (1, 2, 3)]
    decisions = place(waiting, cluster, POLICY)
    assert decisions.waiting == {1: Reason.BUSY, 2: Reason.BUSY, 3: Reason.STARTING}
    assert [p.sequence for p in decisions.placements] == [3]


def test_a_task_that_the_busy_one_can_not_take_does_not_wait_for_it() -> None:
    cluster = with_room(busy(1, "a0", start_ms=8_000, free_in_ms=3_000))
    decisions = place([task(1, gpu(6), executor_class="model")], cluster, POLICY)
    assert [p.sequence for p in decisions.placements] == [1]


def test_nobody_waits_for_an_executor_whose_node_has_too_few_cpus_for_the_task() -> None:
    """Executors without a device are of one class, whatever CPUs their tasks ask for."""
    small = replace(
        warm(1, "cpu", "a", gib=0, idle=False, start_ms=8_000), cpus_milli=1_000, ends_in_ms=50, free_in_ms=50
    )
    cluster = snapshot(node("a", cpus=2, cpus_free_milli=1_000), node("b", cpus=8), executors=(small,))
    wanted = task(1, ResourceRequest(cpus_milli=4_000), executor_class="cpu")
    assert [p.node_id for p in place([wanted], cluster, POLICY).placements] == ["b"]


def test_who_had_room_made_for_him_takes_that() -> None:
    running = busy(1, "a0", start_ms=20_000, free_in_ms=18_000, gib=20)
    cluster = snapshot(node("a", device("a0", 24, 4, holders=1), device("a1")), executors=(running,))
    urgent = replace(task(1, gpu(20), 10, executor_class="model"), first=True)
    assert [p.sequence for p in place([urgent], cluster, POLICY).placements] == [1]


@pytest.mark.parametrize(("free_in_ms", "evicted"), [(9_500, ()), (10_500, ("e2",))])
def test_the_loss_of_another_model_counts_too(free_in_ms: int, evicted: tuple[str, ...]) -> None:
    """A start takes 8 s, and to load again what would have to go 2 s."""
    other = warm(2, "other", "a", "a1", gib=20, start_ms=2_000)
    cluster = snapshot(
        node("a", device("a0", 24, 4, holders=1), device("a1", 24, 4, holders=1)),
        executors=(busy(1, "a0", start_ms=8_000, free_in_ms=free_in_ms, gib=20), other),
    )
    decisions = place([task(1, gpu(20), executor_class="model")], cluster, POLICY)
    assert decisions.evictions == evicted
    assert decisions.waiting == {1: Reason.RECLAIMING if evicted else Reason.BUSY}


def test_who_waits_for_a_busy_one_does_not_speak_for_its_like() -> None:
    other = warm(2, "other", "a", "a1", gib=20, start_ms=2_000)
    cluster = snapshot(
        node("a", device("a0", 24, 4, holders=1), device("a1", 24, 4, holders=1)),
        executors=(busy(1, "a0", start_ms=8_000, free_in_ms=9_500, gib=20), other),
    )
    waiting = [task(number, gpu(20), executor_class="model") for number in (1, 2)]
    decisions = place(waiting, cluster, POLICY)
    assert decisions.waiting == {1: Reason.BUSY, 2: Reason.RECLAIMING}
    assert decisions.evictions == ("e2",)
