"""Whose turn it is among tenants."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.bridge.tenant_books import TenantBooks
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.model import Placement, Reason, Reserved, ResourceRequest, Snapshot, WaitingTask
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.placement.fair_share import FairShare, expected_charge, first_in_turn
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.policy import WEIGHT_ONE, Order

from .clusters import device, gpu, node, snapshot, task, warm

NAMES = ("a", "b", "c", None)


def of(
    tenant: str | None, sequence: int, *, priority: int = 5, arrived_ms: int = 0, expected_ms: int | None = 10
) -> WaitingTask:
    return WaitingTask(
        f"t{sequence}", "class", gpu(8), priority, sequence, arrived_ms, expected_ms, tenant=tenant
    )


def turns(
    waiting: list[WaitingTask],
    used: dict[str, int] | None = None,
    *,
    mib: int = 1,
    reserved: int | None = None,
    devices: int = 2,
    order: Order | None = None,
) -> list[WaitingTask]:
    """The order in which all of them are placed."""
    kept = None if reserved is None else Reserved(reserved, "n", ("d1", "d2")[:devices], None)
    shares = FairShare(waiting, Snapshot((), reserved=kept, tenants=used or {}), order or Order())
    found = []
    for one in shares:
        shares.charge(one, mib)
        found.append(one)
    return found


@st.composite
def tasks(draw: st.DrawFn, names: tuple[str | None, ...] = NAMES) -> list[WaitingTask]:
    one = st.tuples(
        st.sampled_from(names), st.integers(1, 10), st.integers(0, 10**6), st.none() | st.integers(1, 10**7)
    )
    found = draw(st.lists(one, max_size=40))
    return [
        of(tenant, n, priority=priority, arrived_ms=at, expected_ms=expected)
        for n, (tenant, priority, at, expected) in enumerate(found)
    ]


orders = st.builds(
    lambda aging, weights: Order(aging_ms=aging, tenant_weights_milli=tuple(weights.items())),
    st.sampled_from([0, 1_000, 60_000]),
    st.dictionaries(st.sampled_from(["a", "b", "c", ""]), st.integers(1, 10**9)),
)
usages = st.dictionaries(st.sampled_from(["a", "b", "c", ""]), st.integers(0, 10**15))


@given(tasks(), usages, orders, st.integers(0, 10**6), st.none() | st.integers(0, 39), st.randoms())
@settings(max_examples=300, deadline=None)
def test_tasks_change_places_within_one_base_priority_only(
    waiting: list[WaitingTask],
    used: dict[str, int],
    order: Order,
    mib: int,
    reserved: int | None,
    random: Random,
) -> None:
    found = turns(waiting, used, mib=mib, reserved=reserved, order=order)
    static = sorted(waiting, key=lambda one: order_key(one, order))

    assert sorted(one.sequence for one in found) == sorted(one.sequence for one in waiting)
    assert [one.priority for one in found] == [one.priority for one in static]
    for key in {(one.tenant, one.priority) for one in waiting}:
        alike = [one for one in found if (one.tenant, one.priority) == key and one.sequence != reserved]
        assert alike == [one for one in static if one in alike], "a tenant's own tasks keep their order"
    shuffled = random.sample(waiting, len(waiting))
    assert turns(shuffled, used, mib=mib, reserved=reserved, order=order) == found, "it is deterministic"


@given(st.sampled_from(NAMES).flatmap(lambda name: tasks((name,))), usages, orders)
@settings(max_examples=100, deadline=None)
def test_with_one_tenant_or_none_the_order_is_what_it_was(
    waiting: list[WaitingTask], used: dict[str, int], order: Order
) -> None:
    assert turns(waiting, used, order=order, reserved=3) == sorted(
        waiting, key=lambda one: order_key(one, order)
    )


@given(tasks(), usages, orders)
@settings(max_examples=100, deadline=None)
def test_all_charges_are_integers(waiting: list[WaitingTask], used: dict[str, int], order: Order) -> None:
    shares = FairShare(waiting, Snapshot((), tenants=used), order)
    for one in shares:
        shares.charge(one, 7)
        assert type(shares.share(one.tenant or "")) is int
        assert type(expected_charge(one, 7, order)) is int


def test_who_has_used_least_for_its_weight_comes_first() -> None:
    waiting = [of("a", 1), of("a", 2), of("b", 3), of("b", 4), of(None, 5)]
    assert [one.sequence for one in turns(waiting, {"a": 100, "b": 50, "": 70})] == [3, 4, 5, 1, 2]
    heavy = Order(tenant_weights_milli=(("a", 4 * WEIGHT_ONE),))
    assert turns(waiting, {"a": 100, "b": 50, "": 70}, order=heavy)[0].sequence == 1


def test_what_is_placed_in_the_cycle_counts_at_once() -> None:
    waiting = [of("a", n) for n in range(4)] + [of("b", n) for n in range(4, 8)]
    assert [one.tenant for one in turns(waiting)] == ["a", "b"] * 4


def test_what_is_refused_counts_nothing() -> None:
    waiting = [of("a", 1), of("a", 2), of("b", 3)]
    shares = FairShare(waiting, Snapshot((), tenants={"b": 1}), Order())
    assert [one.sequence for one in shares] == [1, 2, 3]


def test_an_unknown_run_counts_as_long_as_such_a_run_is_taken_to_last() -> None:
    order = Order(unknown_run_ms=1_000)
    assert expected_charge(of("a", 1, expected_ms=None), 8, order) == 8_000
    assert expected_charge(of("a", 1, expected_ms=0), 0, order) == 1, "nothing is for nothing"


def test_a_turn_lasts_until_all_the_devices_are_free_that_are_kept_for_it() -> None:
    waiting = [of("a", 1), of("a", 2), of("b", 3)]
    used = {"a": 10**9}
    assert [one.sequence for one in turns(waiting, used, reserved=2)] == [2, 3, 1]
    assert [one.sequence for one in turns(waiting, used, reserved=2, devices=1)] == [3, 1, 2]


def test_a_cycle_places_whose_turn_it_is_and_the_others_wait() -> None:
    cluster = replace(snapshot(node("n", device("d", 24))), tenants={"a": 10**9})
    mine = [replace(task(n, gpu(24)), tenant="a") for n in range(3)]
    theirs = replace(task(9, gpu(24)), tenant="b")
    decisions = place([*mine, theirs], cluster, Policy())
    assert [placement.sequence for placement in decisions.placements] == [9]
    assert {decisions.waiting[n] for n in range(3)} == {Reason.VRAM}


def test_a_more_urgent_task_of_who_has_had_most_still_comes_first() -> None:
    cluster = replace(snapshot(node("n", device("d", 24))), tenants={"a": 10**12})
    urgent = replace(task(5, gpu(24), priority=10), tenant="a")
    decisions = place([replace(task(1, gpu(24)), tenant="b"), urgent], cluster, Policy())
    assert [placement.sequence for placement in decisions.placements] == [5]


def test_who_waits_for_a_starting_executor_has_had_its_turn() -> None:
    starting = warm(1, "a-class", "n", "d1", gib=24, idle=False, starting=True)
    cluster = snapshot(node("n", device("d1", 24, 0, holders=1), device("d2", 24)), executors=(starting,))
    mine = [replace(task(n, gpu(24), executor_class="a-class"), tenant="a") for n in (1, 2)]
    theirs = replace(task(3, gpu(24), executor_class="b-class"), tenant="b")
    decisions = place([*mine, theirs], cluster, Policy())
    assert [placement.sequence for placement in decisions.placements] == [3]
    assert decisions.waiting[1] is Reason.STARTING


def test_what_is_published_first_is_what_comes_first() -> None:
    cluster = replace(snapshot(node("n", device("d", 24))), tenants={"a": 1})
    waiting = [
        of("a", 1),
        of("a", 2),
        of("a", 3),
        of("b", 4),
        of("b", 5),
        replace(task(6, gpu(None)), tenant="b"),
    ]
    assert [one.sequence for one in first_in_turn(waiting, cluster, Order(), 4)] == [4, 1, 5, 2]
    unnamed = [replace(one, tenant=None) for one in waiting]
    assert [one.sequence for one in first_in_turn(unnamed, cluster, Order(), 4)] == [1, 2, 3, 4]


# In the long run: one device, runs one after the other, and real books


class Served:
    """A device that always has something to do: each run is of whose turn it is."""

    def __init__(self, weights: dict[str, float], half_life_s: float) -> None:
        self.clock = ManualClock(1_000_000.0)
        self.books = TenantBooks(self.clock, half_life_s=half_life_s)
        self.books.named = True
        self.order = Order(
            tenant_weights_milli=tuple((name, round(w * WEIGHT_ONE)) for name, w in weights.items())
        )
        self.used: Counter[str] = Counter()

    def run(self, waiting: dict[str, tuple[int, int]]) -> str:
        """One run, of the tenants that have something waiting: MiB and milliseconds of each. Returns whose it was."""
        tasks = [
            WaitingTask(name, "class", ResourceRequest(gpus=1, memory_mib=mib), 5, n, 0, ms, tenant=name)
            for n, (name, (mib, ms)) in enumerate(waiting.items())
        ]
        first = next(iter(FairShare(tasks, Snapshot((), tenants=self.books.usage(waiting)), self.order)))
        tenant, (mib, ms) = first.task_id, waiting[first.task_id]
        run: Any = SimpleNamespace(task=first, executor_id="e")
        executor: Any = SimpleNamespace(executor_id="e", memory_mib=mib, device_uuids=("d",))
        self.books.begin(run, executor)
        self.clock.advance(ms / 1000)
        self.books.end(run)
        self.used[tenant] += mib * ms
        return tenant


sizes = st.tuples(st.integers(100, 20_000), st.integers(100, 5_000))


@given(st.integers(1, 9), sizes, sizes)
@settings(max_examples=10, deadline=None)
def test_shares_come_to_the_weights(weight: int, mine: tuple[int, int], theirs: tuple[int, int]) -> None:
    """To within what one run moves them, and the step of a slice."""
    served = Served({"a": weight}, half_life_s=300)
    for _ in range(3_000):
        served.run({"a": mine, "b": theirs})
    total = sum(served.used.values())
    one_run = max(size[0] * size[1] for size in (mine, theirs))
    assert abs(served.used["a"] / total - weight / (weight + 1)) <= 0.02 + 4 * one_run / total, served.used


def test_three_to_one() -> None:
    served = Served({"a": 3}, half_life_s=1800)
    for _ in range(2_000):
        served.run({"a": (8_192, 2_000), "b": (24_576, 1_000)})
    assert 2.9 < served.used["a"] / served.used["b"] < 3.1


@given(st.lists(st.integers(1, 8), min_size=2, max_size=4), st.integers(60, 200))
@settings(max_examples=10, deadline=None)
def test_who_has_had_all_waits_for_a_bounded_time_when_the_others_come_back(
    weights: list[int], half_life_s: int
) -> None:
    names = [f"t{n}" for n in range(len(weights))]
    served = Served(dict(zip(names, map(float, weights), strict=True)), half_life_s)
    one = (1_000, 1_000)
    for _ in range(8 * half_life_s):
        served.run({names[0]: one})
    began = served.clock.monotonic()
    while served.run(dict.fromkeys(names, one)) != names[0]:
        pass
    waited = served.clock.monotonic() - began
    bound = half_life_s * math.log2(sum(weights) / weights[0])
    # A slice is an eighth of a half-life, by which everything that is older weighs too much or too little.
    assert waited <= bound + half_life_s / 8 + len(names) + 1
    for name in names:
        served.used.clear()
        turns_until = 0
        while served.run(dict.fromkeys(names, one)) != name:
            turns_until += 1
            assert turns_until <= bound + half_life_s


def test_idleness_saves_nothing_up() -> None:
    """However long a tenant was away, it is ahead for no longer."""
    ahead = []
    for away in (10, 40):
        served = Served({}, half_life_s=100)
        for _ in range(away * 100):
            served.run({"a": (1_000, 1_000)})
        runs = 0
        while served.run({"a": (1_000, 1_000), "b": (1_000, 1_000)}) == "b":
            runs += 1
        ahead.append(runs)
    assert abs(ahead[0] - ahead[1]) <= 1
    assert ahead[0] <= 100 + 100 / 8 + 2


def test_a_placement_is_what_a_cycle_with_tenants_yields() -> None:
    cluster = snapshot(node("n", device("d", 24)), executors=(warm(1, "x", "n", "d", gib=8),))
    waiting = [replace(task(n, gpu(8), executor_class="x"), tenant=name) for n, name in ((1, "a"), (2, "b"))]
    decisions = place(waiting, replace(cluster, tenants={"a": 5}), Policy())
    assert decisions.placements[0] == Placement("t2", "n", ("d",), 8 * 1024, "e1", 2)


def test_a_task_for_which_runs_were_ended_has_its_turn_whatever_its_tenant_has_used() -> None:
    waiting = [
        replace(task(1, gpu(8), 9), tenant="greedy", first=True),
        replace(task(2, gpu(8), 9), tenant="modest"),
    ]
    shares = FairShare(waiting, Snapshot((), tenants={"greedy": 10**9}), Order())
    assert [one.sequence for one in shares] == [1, 2]


@pytest.mark.parametrize(
    ("holders", "free_gib", "first"),
    [(1, 0, 2), (2, 0, 1), (1, 20, 1)],
    ids=["one run ends and all is free", "several have to end", "some have ended"],
)
def test_room_that_comes_together_on_one_device_is_no_other_tenants_meanwhile(
    holders: int, free_gib: int, first: int
) -> None:
    """Else two tenants' large tasks could take it from each other, and small ones fill what had come together."""
    waiting = [replace(task(1, gpu(80)), tenant="greedy"), replace(task(2, gpu(80)), tenant="modest")]
    cluster = replace(
        snapshot(node("n", device("d0", 80, free_gib, holders=holders))),
        reserved=Reserved(1, "n", ("d0",), 1_000),
        tenants={"greedy": 10**9},
    )
    assert next(iter(FairShare(waiting, cluster, Order()))).sequence == first
