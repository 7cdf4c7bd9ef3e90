"""Runs that are put back for an urgent task: which, when, and what becomes of the room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.model import (
    Decisions,
    Preemption,
    Reason,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement import Order, Policy, place

from .clusters import GIB, device, gpu, node, snapshot, task, warm

ON = Policy(order=Order(preempt=True))


def busy(number: int, *uuids: str, gib: int = 24, ran_s: int = 60, **extra: object) -> WarmExecutor:
    """One whose run may be put back, unless `extra` says else."""
    values: dict[str, object] = {"preemptible": True, "priority": 5, "ran_ms": ran_s * 1000, **extra}
    return warm(number, f"c{number}", "n1", *uuids, gib=gib, idle=False, **values)


def full(*executors: WarmExecutor, devices: int = 1, total_gib: int = 24, **extra: object) -> Snapshot:
    """One node whose devices hold these executors and nothing else."""
    states = []
    for name in ("g0", "g1", "g2")[:devices]:
        here = [e for e in executors if name in e.device_uuids]
        held = sum(e.memory_mib for e in here)
        left = total_gib - held // GIB
        states.append(
            device(name, total_gib, left, holders=len(here), exclusive=any(e.exclusive for e in here))
        )
    return snapshot(node("n1", *states, **extra), executors=executors)


def ended(decisions: Decisions) -> list[str]:
    return [name for preemption in decisions.preemptions for name in preemption.executor_ids]


def test_a_preemptible_run_is_put_back_for_an_urgent_task() -> None:
    decisions = place([task(1, gpu(20), 9)], full(busy(1, "g0")), ON)
    assert decisions.preemptions == (Preemption(1, "n1", ("g0",), ("e1",)),)
    assert decisions.waiting == {1: Reason.RECLAIMING}
    assert not decisions.placements


@pytest.mark.parametrize(
    ("policy", "priority", "extra"),
    [
        (Policy(), 10, {}),
        (ON, 8, {}),
        (ON, 10, {"preemptible": False}),
        (ON, 10, {"priority": 9}),
    ],
    ids=["off", "not urgent", "not preemptible", "urgent itself"],
)
def test_nothing_is_put_back_else(policy: Policy, priority: int, extra: dict[str, object]) -> None:
    decisions = place([task(1, gpu(20), priority)], full(busy(1, "g0", **extra)), policy)
    assert not decisions.preemptions
    assert decisions.waiting == {1: Reason.VRAM}


def test_free_room_goes_first() -> None:
    decisions = place([task(1, gpu(20), 10)], full(busy(1, "g0"), devices=2), ON)
    assert not decisions.preemptions
    assert [placement.device_uuids for placement in decisions.placements] == [("g1",)]


def test_idle_executors_end_first() -> None:
    idle = warm(2, "other", "n1", "g1", gib=24)
    decisions = place([task(1, gpu(20), 10)], full(busy(1, "g0"), idle, devices=2), ON)
    assert (decisions.evictions, decisions.preemptions) == (("e2",), ())


def test_an_idle_executor_ends_with_a_run_where_both_are_needed() -> None:
    idle = warm(2, "other", "n1", "g0", gib=12)
    decisions = place([task(1, gpu(20), 10)], full(busy(1, "g0", gib=12), idle), ON)
    assert (decisions.evictions, ended(decisions)) == (("e2",), ["e1"])


def test_an_idle_executor_that_is_in_nobodys_way_stays() -> None:
    idle = warm(2, "other", "n1", "g0", gib=4)
    decisions = place([task(1, gpu(20), 10)], full(busy(1, "g0", gib=20), idle), ON)
    assert (decisions.evictions, ended(decisions)) == ((), ["e1"])


def test_what_is_about_to_come_back_is_waited_for() -> None:
    state = device("g0", 24, 0, holders=1, reclaiming_mib=24 * GIB, reclaiming_holders=1)
    also = device("g1", 24, 0, holders=1)
    decisions = place(
        [task(1, gpu(20), 10)], snapshot(node("n1", state, also), executors=(busy(1, "g1"),)), ON
    )
    assert not decisions.preemptions
    assert decisions.waiting == {1: Reason.RECLAIMING}


def test_least_work_is_lost() -> None:
    shot = full(busy(1, "g0", ran_s=90), busy(2, "g1", ran_s=30), busy(3, "g2", ran_s=60), devices=3)
    assert ended(place([task(1, gpu(20), 10)], shot, ON)) == ["e2"]
    assert ended(place([task(1, gpu(20, gpus=2), 10)], shot, ON)) == ["e2", "e3"]


def test_memory_counts_in_what_is_lost() -> None:
    shot = full(busy(1, "g0", gib=24, ran_s=50), busy(2, "g1", gib=12, ran_s=60), devices=2)
    assert ended(place([task(1, gpu(20), 10)], shot, ON)) == ["e2"]


def test_one_large_run_may_be_cheaper_than_several_small_ones() -> None:
    small = [busy(n, "g0", gib=8, ran_s=30) for n in (1, 2, 3)]
    shot = full(*small, busy(4, "g1", gib=24, ran_s=25), devices=2)
    assert ended(place([task(1, gpu(20), 10)], shot, ON)) == ["e4"]


def test_only_those_that_are_needed_end() -> None:
    shot = full(busy(1, "g0", gib=8, ran_s=1), busy(2, "g0", gib=16, ran_s=10))
    assert ended(place([task(1, gpu(14), 10)], shot, ON)) == ["e2"]


def test_a_whole_device_needs_the_end_of_all_on_it() -> None:
    shot = full(busy(1, "g0", gib=8), busy(2, "g0", gib=8))
    assert sorted(ended(place([task(1, gpu(None), 10)], shot, ON))) == ["e1", "e2"]
    mixed = full(busy(1, "g0", gib=8), busy(2, "g0", gib=8, preemptible=False))
    assert not place([task(1, gpu(None), 10)], mixed, ON).preemptions


def test_the_cheapest_node_is_taken() -> None:
    shot = Snapshot(
        (node("n1", device("g0", 24, 0, holders=1)), node("n2", device("g1", 24, 0, holders=1))),
        (busy(1, "g0", ran_s=60), replace(busy(2, "g1", ran_s=20), node_id="n2")),
    )
    assert place([task(1, gpu(20), 10)], shot, ON).preemptions == (Preemption(1, "n2", ("g1",), ("e2",)),)


def test_cpus_and_host_memory_come_back_too() -> None:
    request = gpu(8, cpus_milli=6000, host_memory_mib=40 * GIB)
    holder = busy(1, "g0", gib=8, cpus_milli=6000, host_memory_mib=40 * GIB)
    shot = full(holder, devices=3, cpus_free_milli=2000, memory_free_mib=24 * GIB)
    decisions = place([task(1, request, 10), task(2, gpu(4, cpus_milli=1000), 5)], shot, ON)
    assert ended(decisions) == ["e1"]
    assert decisions.waiting[2] is Reason.CPUS, "what is free already is kept as well"


def test_a_task_without_a_device_gets_its_room() -> None:
    request = ResourceRequest(cpus_milli=4000, host_memory_mib=4 * GIB)
    holder = replace(busy(1, gib=0, cpus_milli=8000), device_uuids=())
    shot = full(holder, cpus_free_milli=0)
    assert ended(place([task(1, request, 9)], shot, ON)) == ["e1"]


def test_memory_beyond_the_total_has_to_come_back_first() -> None:
    state = device("g0", 24, 0, holders=1, overrun_mib=8 * GIB)
    shot = snapshot(node("n1", state), executors=(busy(1, "g0"),))
    assert not place([task(1, gpu(20), 10)], shot, ON).preemptions
    assert place([task(1, gpu(16), 10)], shot, ON).preemptions


def test_one_task_a_cycle() -> None:
    shot = full(busy(1, "g0"), busy(2, "g1"), devices=2)
    decisions = place([task(1, gpu(20), 10), task(2, gpu(22), 10)], shot, ON)
    assert [preemption.sequence for preemption in decisions.preemptions] == [1]
    assert set(decisions.waiting) == {1, 2}


class TestWhileTheRoomComesBack:
    """A cycle later: the executor ends, and its room is kept for the task."""

    made = Preemption(1, "n1", ("g0",), ("e1",))

    def shot(self, *executors: WarmExecutor, **extra: object) -> Snapshot:
        coming = device("g0", 24, 0, holders=1, reclaiming_mib=24 * GIB, reclaiming_holders=1)
        other = device("g1", 24, 0, holders=1)
        return replace(
            snapshot(node("n1", coming, other, **extra), executors=executors), preemptions=(self.made,)
        )

    def test_nothing_else_is_ended_for_it(self) -> None:
        waiting = replace(task(1, gpu(20), 10), first=True)
        decisions = place([waiting], self.shot(busy(2, "g1")), ON)
        assert (decisions.preemptions, decisions.evictions) == ((), ())
        assert decisions.waiting == {1: Reason.RECLAIMING}

    def test_nor_where_what_it_waits_for_are_cpus(self) -> None:
        waiting = replace(task(1, gpu(20, cpus_milli=8000), 10), first=True)
        decisions = place([waiting], self.shot(busy(2, "g1", cpus_milli=8000), cpus_free_milli=0), ON)
        assert not decisions.preemptions
        assert decisions.waiting == {1: Reason.RECLAIMING}

    def test_the_next_of_its_like_has_others_ended(self) -> None:
        alike = [replace(task(1, gpu(20), 10), first=True), task(2, gpu(20), 10)]
        decisions = place(alike, self.shot(busy(2, "g1")), ON)
        assert decisions.preemptions == (Preemption(2, "n1", ("g1",), ("e2",)),)

    def test_what_has_grown_old_beside_it_does_not_get_it(self) -> None:
        old = replace(task(2, gpu(20), 5), arrived_ms=-10_000_000)
        urgent = replace(task(1, gpu(22), 9), first=True)
        decisions = place([old, urgent], self.shot(), ON)
        assert decisions.waiting[1] is Reason.RECLAIMING
        back = snapshot(node("n1", device("g0", 24)))
        assert [p.sequence for p in place([old, urgent], back, ON).placements] == [1]

    def test_another_place_is_taken_where_there_is_one(self) -> None:
        free = node("n2", device("g2", 24))
        shot = self.shot()
        decisions = place(
            [replace(task(1, gpu(20), 10), first=True)], replace(shot, nodes=(*shot.nodes, free)), ON
        )
        assert [placement.node_id for placement in decisions.placements] == ["n2"]

    def test_a_node_that_went_away_keeps_nothing(self) -> None:
        gone = replace(self.made, node_id="n9")
        shot = replace(full(busy(2, "g0")), preemptions=(gone,))
        assert ended(place([replace(task(1, gpu(20), 10), first=True)], shot, ON)) == ["e2"]


def test_the_urgent_task_need_not_be_the_first_of_its_shape() -> None:
    old = WaitingTask("t1", "c", gpu(20), 5, 1, arrived_ms=-10_000_000)
    urgent = WaitingTask("t2", "c", gpu(20), 9, 2)
    decisions = place(
        [old, urgent],
        full(busy(1, "g0", priority=3), devices=1),
        Policy(order=Order(preempt=True, reserve=False)),
    )
    assert [preemption.sequence for preemption in decisions.preemptions] == [2]


@pytest.mark.parametrize(("first", "ends"), [(10, []), (9, []), (3, ["e1"])])
def test_a_reservation_counts_where_its_task_is_no_less_urgent(first: int, ends: list[str]) -> None:
    """It waits for two devices, of which one is held by what can't be ended."""
    shot = full(busy(1, "g0"), busy(2, "g1", preemptible=False), devices=2)
    gang = replace(task(1, gpu(20, gpus=2), first), arrived_ms=-10_000_000)
    decisions = place([gang, task(2, gpu(20), 9)], shot, ON)
    assert decisions.reserved is not None
    assert ended(decisions) == ends


def test_idle_executors_stay_where_room_is_kept_for_another() -> None:
    """As without preemption; what is ended there for the urgent one is a run."""
    idle = warm(3, "other", "n1", "g1", gib=24)
    shot = full(busy(1, "g0", gib=24), idle, devices=2)
    gang = replace(task(1, gpu(20, gpus=2), 3), arrived_ms=-10_000_000)
    decisions = place([gang, task(2, gpu(20), 9)], shot, ON)
    assert decisions.reserved is not None
    assert (decisions.evictions, ended(decisions)) == ((), ["e1"])
