"""A waiting task is overtaken by tasks of lower priority at most as often as the bound says, whatever comes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from celeray.scheduler.model import Isolation, Reason, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement import Order, Policy, place
from celeray.scheduler.placement.filters import could_fit_idle

from .clusters import GIB, device, gpu, node, snapshot, task, warm

BOUND = 3


def policy(bound: int = BOUND, **order: object) -> Policy:
    return Policy(order=Order(overtaken_most=bound, **order))  # type: ignore[arg-type]


def full_but_for_a_gap() -> Snapshot:
    return snapshot(
        node("a", device("a0", 24, 8, holders=1)),
        node("b", device("b0", 8)),
        executors=(warm(1, "k", "a", "a0", gib=16, idle=False),),
    )


def test_a_task_that_was_overtaken_often_enough_closes_the_nodes_that_could_hold_it() -> None:
    large = task(1, gpu(20), priority=8)
    small = [task(n, gpu(8), priority=5) for n in (2, 3)]
    order = {"reserve": False}
    open_ = place([large, *small], full_but_for_a_gap(), policy(**order))
    assert [p.node_id for p in open_.placements] == ["a", "b"]
    assert open_.overtaken == {(large.request, 8): 1}, "node b could never hold it"
    closed = place([replace(large, overtaken=BOUND), *small], full_but_for_a_gap(), policy(**order))
    assert [p.node_id for p in closed.placements] == ["b"]
    assert closed.waiting[3] is Reason.RESERVED


def test_the_bound_holds_within_one_cycle() -> None:
    wide = snapshot(
        node("a", *(device(f"a{n}", 24, 8, holders=1) for n in range(8))),
        executors=tuple(warm(n, "k", "a", f"a{n}", gib=16, idle=False) for n in range(8)),
    )
    tasks = [task(1, gpu(20), priority=8), *(task(n, gpu(8), priority=5) for n in range(2, 10))]
    decisions = place(tasks, wide, policy(reserve=False))
    assert len(decisions.placements) == BOUND
    assert decisions.overtaken == {(tasks[0].request, 8): BOUND}


def test_tasks_of_the_same_or_a_higher_priority_are_not_held_back() -> None:
    due = replace(task(1, gpu(20), priority=5), overtaken=BOUND)
    for priority in (5, 8):
        decisions = place(
            [due, task(2, gpu(8), priority=priority)], full_but_for_a_gap(), policy(reserve=False)
        )
        assert [p.task_id for p in decisions.placements] == ["t2"]


def test_a_task_that_aged_past_a_more_urgent_one_overtakes_it_too() -> None:
    old = replace(task(1, gpu(8), priority=1), arrived_ms=0)
    young = replace(task(2, gpu(20), priority=8), arrived_ms=10**9, overtaken=BOUND)
    decisions = place([old, young], full_but_for_a_gap(), policy(reserve=False))
    assert [p.node_id for p in decisions.placements] == ["b"]


@dataclass
class Running:
    node_id: str
    uuids: tuple[str, ...]
    memory_mib: int
    ends_in_ms: int | None = None


@dataclass
class World:
    waiting: dict[int, WaitingTask] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)
    overtaken: dict[int, int] = field(default_factory=dict)


class Arrivals(RuleBasedStateMachine):
    """Tasks come and end in any order on a small cluster; the machine counts by itself who overtakes whom."""

    NODES = (("a", 4, 24), ("b", 2, 16))

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.clock = 0
        self.numbers = 0
        self.policy = policy(aging_ms=1000)

    def snapshot(self) -> Snapshot:
        nodes = []
        for name, count, gib in self.NODES:
            used = {f"{name}{n}": 0 for n in range(count)}
            holders = dict.fromkeys(used, 0)
            for run in self.world.running:
                for uuid in run.uuids:
                    if uuid in used:
                        used[uuid] += run.memory_mib
                        holders[uuid] += 1
            nodes.append(
                node(
                    name,
                    *(
                        replace(
                            device(uuid, gib), schedulable_mib=gib * GIB - used[uuid], holders=holders[uuid]
                        )
                        for uuid in used
                    ),
                )
            )
        executors = tuple(
            WarmExecutor(
                f"r{n}", "run", r.node_id, r.uuids, r.memory_mib, False, False, 0.0, ends_in_ms=r.ends_in_ms
            )
            for n, r in enumerate(self.world.running)
        )
        return Snapshot(tuple(nodes), executors)

    @rule(
        gib=st.sampled_from([4, 8, 12, 20, 24]),
        gpus=st.sampled_from([1, 1, 1, 2, 4]),
        priority=st.integers(1, 10),
        expected=st.none() | st.integers(1, 10_000),
        count=st.integers(1, 4),
    )
    def come(self, gib: int, gpus: int, priority: int, expected: int | None, count: int) -> None:
        for _ in range(count):
            self.numbers += 1
            request = ResourceRequest(gpus=gpus, memory_mib=gib * GIB, isolation=Isolation.FRESH)
            self.world.waiting[self.numbers] = WaitingTask(
                f"t{self.numbers}", f"c{gib}x{gpus}", request, priority, self.numbers, self.clock, expected
            )
            self.world.overtaken[self.numbers] = 0

    @rule(ms=st.integers(1, 5_000))
    def time_passes(self, ms: int) -> None:
        self.clock += ms

    @rule(which=st.integers(0, 30))
    def one_ends(self, which: int) -> None:
        if self.world.running:
            del self.world.running[which % len(self.world.running)]

    @rule()
    def cycle(self) -> None:
        given = [replace(t, overtaken=self.world.overtaken[t.sequence]) for t in self.world.waiting.values()]
        now = self.snapshot()
        decisions = place(given, now, self.policy)
        assert place(given, now, self.policy) == decisions, "the same input gives the same output"
        states = {n.node_id: n for n in now.nodes}
        for placement in decisions.placements:
            task = self.world.waiting.pop(placement.sequence)
            self.world.running.append(
                Running(placement.node_id, placement.device_uuids, placement.memory_mib)
            )
            for other in self.world.waiting.values():
                could = could_fit_idle(other.request, states[placement.node_id], self.policy)
                if other.priority > task.priority and could and other.sequence in decisions.waiting:
                    self.world.overtaken[other.sequence] += 1

    @invariant()
    def nobody_is_overtaken_too_often(self) -> None:
        waiting = [self.world.overtaken[sequence] for sequence in self.world.waiting]
        assert max(waiting, default=0) <= BOUND

    @invariant()
    def no_device_is_over(self) -> None:
        assert all(d.schedulable_mib >= 0 for n in self.snapshot().nodes for d in n.devices)


Arrivals.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestArrivals = Arrivals.TestCase


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("executor_class", ["m", "n"])
def test_who_is_barred_keeps_no_room_from_the_one_that_it_would_overtake(
    reserve: bool, executor_class: str
) -> None:
    policy = Policy(order=Order(overtaken_most=3, reserve=reserve))
    low = replace(task(1, gpu(20), 3, executor_class="m"), arrived_ms=0)
    high = replace(task(2, gpu(20), 5, executor_class=executor_class), arrived_ms=200_000, overtaken=3)
    decisions = place([low, high], snapshot(node("a", device("a0"))), policy)
    assert [placement.sequence for placement in decisions.placements] == [2]
