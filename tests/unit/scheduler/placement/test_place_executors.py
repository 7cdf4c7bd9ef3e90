"""Warm executors: taken before new ones are started, counted while they start, ended when their room is needed."""

from __future__ import annotations

import pytest

from celeray.scheduler.model import DeviceState, Reason, ResourceRequest
from celeray.scheduler.placement import place

from .clusters import GIB, POLICY, device, gpu, node, snapshot, task, warm


def test_the_most_recently_used_idle_executor_takes_the_task() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 8, holders=2)),
        executors=(warm(1, "k", "a", "a0", last_used=1.0), warm(2, "k", "a", "a0", last_used=2.0)),
    )
    decisions = place([task(1, gpu(8), executor_class="k")], cluster, POLICY)
    assert [p.executor_id for p in decisions.placements] == ["e2"]
    assert decisions.evictions == ()


def test_a_shared_executor_must_have_reserved_enough() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 16, holders=1)), executors=(warm(1, "shared:x", "a", "a0", gib=8),)
    )
    decisions = place([task(1, gpu(12), executor_class="shared:x")], cluster, POLICY)
    assert [p.executor_id for p in decisions.placements] == [None]
    smaller = place([task(1, gpu(6), executor_class="shared:x")], cluster, POLICY)
    assert [p.executor_id for p in smaller.placements] == ["e1"]


def test_a_warm_executor_needs_free_cpus_and_a_node_that_is_not_draining() -> None:
    executors = (warm(1, "k", "a", "a0"),)
    busy = snapshot(node("a", device("a0", 24, 0, holders=1), cpus_free_milli=0), executors=executors)
    assert place([task(1, gpu(8, cpus_milli=1000), executor_class="k")], busy, POLICY).placements == ()
    draining = snapshot(node("a", device("a0", 24, 0, holders=1), draining=True), executors=executors)
    assert place([task(1, gpu(8), executor_class="k")], draining, POLICY).waiting == {1: Reason.UNUSABLE}


def test_a_starting_executor_counts_for_one_waiting_task() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 16, holders=1)),
        executors=(warm(1, "k", "a", "a0", idle=False, starting=True),),
    )
    tasks = [task(n, gpu(8), executor_class="k") for n in (1, 2)]
    decisions = place(tasks, cluster, POLICY)
    assert [p.task_id for p in decisions.placements] == ["t2"], "the first one is covered"
    assert decisions.waiting == {1: Reason.STARTING, 2: Reason.STARTING}


def test_the_least_recently_used_idle_executor_is_evicted() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=3)),
        executors=(
            warm(1, "k1", "a", "a0", last_used=3.0),
            warm(2, "k2", "a", "a0", last_used=1.0),
            warm(3, "k3", "a", "a0", last_used=2.0, idle=False),
        ),
    )
    decisions = place([task(1, gpu(8), executor_class="new")], cluster, POLICY)
    assert decisions.evictions == ("e2",)
    assert decisions.placements == ()
    assert decisions.waiting == {1: Reason.RECLAIMING}


def test_room_being_made_is_kept_for_the_one_it_is_made_for() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 6, holders=1)), executors=(warm(1, "k1", "a", "a0", gib=18),)
    )
    small = task(2, gpu(6), priority=1, executor_class="small")
    decisions = place([task(1, gpu(20), executor_class="big"), small], cluster, POLICY)
    assert decisions.evictions == ("e1",)
    assert decisions.placements == ()
    assert decisions.waiting == {1: Reason.RECLAIMING, 2: Reason.RECLAIMING}


def test_nothing_more_is_evicted_while_enough_comes_back() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=2, reclaiming_mib=12 * GIB, reclaiming_holders=1)),
        executors=(warm(1, "k1", "a", "a0", gib=12),),
    )
    decisions = place([task(1, gpu(12), executor_class="new")], cluster, POLICY)
    assert decisions.evictions == ()
    assert decisions.waiting == {1: Reason.RECLAIMING}


def test_a_whole_device_is_cleared_of_idle_executors_only() -> None:
    idle = (warm(1, "k1", "a", "a0"), warm(2, "k2", "a", "a0"))
    cluster = snapshot(node("a", device("a0", 24, 8, holders=2)), executors=idle)
    assert sorted(place([task(1, gpu(None))], cluster, POLICY).evictions) == ["e1", "e2"]
    busy = (idle[0], warm(2, "k2", "a", "a0", idle=False))
    cluster = snapshot(node("a", device("a0", 24, 8, holders=2)), executors=busy)
    decisions = place([task(1, gpu(None))], cluster, POLICY)
    assert decisions.evictions == ()
    assert decisions.waiting == {1: Reason.EXCLUSIVE}


def test_an_idle_exclusive_executor_makes_room_for_a_shared_one() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1, exclusive=True)),
        executors=(warm(1, "k1", "a", "a0", gib=24, exclusive=True),),
    )
    assert place([task(1, gpu(8))], cluster, POLICY).evictions == ("e1",)


def test_a_gang_clears_as_many_devices_as_it_needs() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1), device("a1", 24), device("a2", 24, 0, holders=1)),
        executors=(
            warm(1, "k1", "a", "a0", gib=24, last_used=1.0),
            warm(2, "k2", "a", "a2", gib=24, last_used=2.0),
        ),
    )
    assert place([task(1, gpu(20, gpus=2))], cluster, POLICY).evictions == ("e1",)


def test_host_memory_that_executors_without_a_device_hold_is_cleared_for_a_task_with_one() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1), memory_free_mib=0),
        executors=(
            warm(1, "model", "a", "a0", gib=24),
            warm(2, "cpu", "a", gib=0, host_memory_mib=8 * GIB),
        ),
    )
    decisions = place([task(1, gpu(24, host_memory_mib=8 * GIB))], cluster, POLICY)
    assert sorted(decisions.evictions) == ["e1", "e2"]


@pytest.mark.parametrize(
    "request_of", [gpu(4, host_memory_mib=8 * GIB), ResourceRequest(host_memory_mib=8 * GIB)]
)
def test_while_host_memory_comes_back_nothing_more_ends_for_it(request_of: ResourceRequest) -> None:
    cluster = snapshot(
        node("a", device("a0"), memory_free_mib=0, reclaiming_memory_mib=8 * GIB),
        executors=(warm(1, "cpu", "a", gib=0, host_memory_mib=8 * GIB),),
    )
    decisions = place([task(1, request_of)], cluster, POLICY)
    assert decisions.evictions == ()
    assert decisions.waiting == {1: Reason.RECLAIMING}


def test_host_memory_is_cleared_too() -> None:
    cluster = snapshot(
        node("a", cpus=4, memory_free_mib=GIB),
        executors=(warm(1, "k", "a", gib=0, host_memory_mib=8 * GIB), warm(2, "k", "a", gib=0)),
    )
    wanted = ResourceRequest(cpus_milli=1000, host_memory_mib=8 * GIB)
    decisions = place([task(1, wanted, executor_class="cpu")], cluster, POLICY)
    assert decisions.evictions == ("e1",)


def test_missing_cpus_evict_nobody() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1), cpus_free_milli=0),
        executors=(warm(1, "k", "a", "a0", gib=24),),
    )
    decisions = place([task(1, gpu(8, cpus_milli=1000))], cluster, POLICY)
    assert decisions.evictions == ()
    assert decisions.waiting == {1: Reason.VRAM}


@pytest.mark.parametrize(
    "state",
    [
        device("a0", 24, 0, holders=1, usable=False),
        device("a0", 24, 0, holders=1, overrun_mib=1),
        device("a0", 24, 0, holders=1, gpu_type="T4"),
        device("other", 24, 0, holders=1),
    ],
    ids=["unhealthy or unreadable", "taken by others", "another type", "gone"],
)
def test_a_warm_executor_gets_no_task_on_a_device_that_would_fail_it(state: DeviceState) -> None:
    cluster = snapshot(node("a", state), executors=(warm(1, "k", "a", "a0"),))
    wanted = gpu(8, gpu_types=("A100",))
    assert place([task(1, wanted, executor_class="k")], cluster, POLICY).placements == ()


def test_a_warm_executor_is_used_while_its_device_is_full_but_not_over() -> None:
    cluster = snapshot(node("a", device("a0", 24, 0, holders=1)), executors=(warm(1, "k", "a", "a0"),))
    decisions = place([task(1, gpu(8, gpu_types=("A100",)), executor_class="k")], cluster, POLICY)
    assert [p.executor_id for p in decisions.placements] == ["e1"]
