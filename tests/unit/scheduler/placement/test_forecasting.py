"""Predicted starts, against what a cluster does that is played by hand with the same `place`."""

from __future__ import annotations

import heapq
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.model import Isolation, Reason, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement import CycleInput, Order, Policy, place
from celeray.scheduler.placement.forecasting import Forecast, NoForecast, forecast

from .clusters import GIB, device, gpu, node, snapshot, task, warm
from .test_place_properties import snapshots, waiting_tasks


def whole(number: int, uuid: str, ends_in_ms: int | None, name: str = "old") -> WarmExecutor:
    """A busy executor that has a device of 24 GiB for itself."""
    return warm(number, name, "n", uuid, gib=24, idle=False, exclusive=True, ends_in_ms=ends_in_ms)


def busy(*ends_in_ms: int | None) -> Snapshot:
    """A node each of whose devices is taken by a run with that end."""
    taken = (device(f"d{at}", 24, 0, holders=1, exclusive=True) for at in range(len(ends_in_ms)))
    running = tuple(whole(at, f"d{at}", ms) for at, ms in enumerate(ends_in_ms))
    return snapshot(node("n", *taken, starts_free=2), executors=running)


def lasting(found: WaitingTask, ms: int | None) -> WaitingTask:
    return replace(found, expected_ms=ms)


def of_one(found: WaitingTask, cluster: Snapshot, *others: WaitingTask) -> Forecast:
    return forecast(CycleInput((found, *others), cluster, Policy()), {found.sequence})[found.sequence]


def test_a_gang_of_four_starts_when_the_last_of_four_known_runs_has_ended() -> None:
    found = of_one(task(1, gpu(None, gpus=4)), busy(1_000, 7_000, 3_000, 5_000))
    assert (found.starts_in_ms, found.known, found.why) == (7_000, True, None)
    assert found.reason is Reason.EXCLUSIVE
    assert found.placement is not None
    assert set(found.placement.device_uuids) == {"d0", "d1", "d2", "d3"}


def test_those_ahead_count_and_those_behind_do_not() -> None:
    first, mine = lasting(task(1, gpu(None)), 4_000), lasting(task(2, gpu(None)), 1_000)
    behind = lasting(task(3, gpu(None)), 60_000)
    assert of_one(mine, busy(2_000), first, behind).starts_in_ms == 6_000
    assert of_one(replace(mine, priority=10), busy(2_000), first, behind).starts_in_ms == 2_000
    assert of_one(behind, busy(2_000), first, mine).starts_in_ms == 7_000


def test_a_free_device_and_a_warm_executor_are_now() -> None:
    now = of_one(task(1, gpu(8)), snapshot(node("n", device("d0"))))
    assert (now.starts_in_ms, now.known, now.reason) == (0, True, None)
    idle = warm(3, "mine", "n", "d0", gib=24)
    again = of_one(
        task(1, gpu(24), executor_class="mine"),
        snapshot(node("n", device("d0", 24, 0, holders=1)), executors=(idle,)),
    )
    assert again.placement is not None
    assert (again.starts_in_ms, again.placement.executor_id, again.reason) == (0, "e3", None)


def test_room_that_an_idle_executor_or_an_ending_one_has_comes_at_once() -> None:
    idle = warm(3, "other", "n", "d0", gib=24)
    evicted = of_one(task(1, gpu(24)), snapshot(node("n", device("d0", 24, 0, holders=1)), executors=(idle,)))
    assert (evicted.starts_in_ms, evicted.reason) == (0, Reason.RECLAIMING)
    ending = device("d0", 24, 0, holders=1, exclusive=True, reclaiming_mib=24 * GIB, reclaiming_holders=1)
    back = of_one(task(1, gpu(24)), snapshot(node("n", ending)))
    assert (back.starts_in_ms, back.reason) == (0, Reason.RECLAIMING)


def test_an_executor_that_is_to_stay_makes_room_when_its_stay_is_over() -> None:
    idle = warm(3, "other", "n", "d0", gib=24, start_ms=1_000, stays_ms=2_500)
    cluster = snapshot(node("n", device("d0", 24, 0, holders=1)), executors=(idle,))
    its_own = lasting(task(1, gpu(24, cpus_milli=9_000), executor_class="other"), 1_000)
    found = of_one(task(2, gpu(24)), cluster, its_own)
    assert (found.starts_in_ms, found.known, found.reason) == (2_500, True, Reason.WARM)


def test_who_waits_for_a_busy_executor_begins_when_that_is_free() -> None:
    running = replace(
        warm(3, "mine", "n", "d0", gib=8, idle=False, ends_in_ms=1_500), start_ms=9_000, free_in_ms=1_500
    )
    found = of_one(
        task(1, gpu(8), executor_class="mine"),
        snapshot(node("n", device("d0", 24, 16, holders=1)), executors=(running,)),
    )
    assert (found.starts_in_ms, found.reason) == (1_500, Reason.BUSY)
    assert found.placement is not None
    assert found.placement.executor_id == "e3"


def test_a_guess_is_said_to_be_one_and_a_guess_upon_a_guess_is_no_forecast() -> None:
    policy = Policy()
    once = of_one(task(1, gpu(None)), busy(None))
    assert (once.starts_in_ms, once.known) == (policy.order.unknown_run_ms, False)
    twice = of_one(task(2, gpu(None)), busy(None), task(1, gpu(None)))
    assert (twice.starts_in_ms, twice.why) == (None, NoForecast.UNKNOWN_RUN_TIMES)
    known = of_one(task(2, gpu(None)), busy(1_000, None), lasting(task(1, gpu(None)), 1_000))
    assert (known.starts_in_ms, known.known) == (2_000, True), "the guess comes after it"


def test_what_never_comes_and_what_is_too_far() -> None:
    never = of_one(task(1, gpu(80)), busy(1_000))
    assert (never.why, never.reason) == (NoForecast.NEVER_FITS, Reason.NEVER_FITS)
    foreign = snapshot(node("n", device("d0", 24, 4, foreign_mib=20 * GIB)))
    stuck = of_one(task(1, gpu(20)), foreign)
    assert (stuck.why, stuck.reason) == (NoForecast.NOTHING_ENDS, Reason.VRAM)
    ahead = tuple(lasting(task(at, gpu(None)), 1_000) for at in range(1, 500))
    far = of_one(task(500, gpu(None)), busy(1_000), *ahead)
    assert (far.starts_in_ms, far.why, far.reason) == (None, NoForecast.BOUND_REACHED, Reason.EXCLUSIVE)
    assert forecast(CycleInput(ahead, busy(1_000), Policy()), {100})[100].starts_in_ms == 100_000


def test_a_fresh_process_gives_its_room_back() -> None:
    request = gpu(None, isolation=Isolation.FRESH)
    first, second = lasting(task(1, request), 3_000), task(2, request)
    found = of_one(second, snapshot(node("n", device("d0"))), first)
    assert (found.starts_in_ms, found.known) == (3_000, True)


def test_cpus_of_a_starting_executor_come_back_for_its_own_task() -> None:
    request = ResourceRequest(cpus_milli=8_000)
    starting = warm(1, "cpu", "n", gib=0, idle=False, starting=True)
    full = snapshot(node("n", cpus_free_milli=0), executors=(starting,))
    found = of_one(task(1, request, executor_class="cpu"), full)
    assert (found.starts_in_ms, found.reason) == (0, Reason.STARTING)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_whole_devices_are_taken_in_turn_as_they_become_free(ends: list[int], seconds: list[int]) -> None:
    tasks = tuple(lasting(task(at, gpu(None)), 1_000 * run) for at, run in enumerate(seconds))
    found = forecast(
        CycleInput(tasks, busy(*(1_000 * end for end in ends)), Policy()), set(range(len(tasks)))
    )
    free_at, starts = sorted(ends), {}
    for at, run in enumerate(seconds):
        starts[at] = 1_000 * heapq.heappop(free_at)
        heapq.heappush(free_at, starts[at] // 1_000 + run)
    assert {at: one.starts_in_ms for at, one in found.items()} == starts
    assert all(one.known for one in found.values())


@given(snapshots(), waiting_tasks())
@settings(max_examples=100, deadline=None)
def test_every_task_has_a_start_or_a_cause_and_the_reason_of_its_first_cycle(
    found: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    said = forecast(CycleInput(tasks, found, Policy()), {one.sequence for one in tasks})
    decided = place(tasks, found, Policy())
    placed = {placement.sequence for placement in decided.placements}
    assert set(said) == {one.sequence for one in tasks}
    for sequence, one in said.items():
        assert (one.starts_in_ms is None) is (one.why is not None)
        assert one.reason is (None if sequence in placed else decided.waiting[sequence])
    # One for whom an executor starts may find the room reserved by then.
    begun = {placement.sequence for placement in decided.placements if placement.executor_id is not None}
    assert all(said[sequence].starts_in_ms == 0 for sequence in begun)


def test_tenants_that_take_turns_do_not_start_and_end_executors_in_one_instant_for_ever() -> None:
    """The gang's turn comes with its reservation, which ends with the start for the other, and so on."""
    gang = replace(lasting(task(1, gpu(None, gpus=2), executor_class="big"), 1_000), tenant="greedy")
    small = replace(lasting(task(2, gpu(20), executor_class="small"), 1_000), tenant="modest")
    running = warm(9, "other", "n", "d0", gib=10, idle=False, ends_in_ms=600_000)
    cluster = snapshot(
        node("n", device("d0", 24, 14, holders=1), device("d1"), device("d2")), executors=(running,)
    )
    cluster = replace(cluster, tenants={"greedy": 10**12})
    found = forecast(CycleInput((gang, small), cluster, Policy()), {1, 2})
    assert all(one.starts_in_ms is not None and one.starts_in_ms < 5_000 for one in found.values())


class TestPreemption:
    """What is ended for an urgent task makes its room at once, and does not come back."""

    policy = Policy(order=Order(preempt=True))
    cluster = replace(
        busy(60_000),
        executors=(replace(whole(0, "d0", 60_000), preemptible=True, priority=5, ran_ms=1_000),),
    )

    def of(self, found: WaitingTask, *others: WaitingTask) -> Forecast:
        cycle = CycleInput((found, *others), self.cluster, self.policy)
        return forecast(cycle, {found.sequence})[found.sequence]

    def test_an_urgent_task_starts_now(self) -> None:
        found = self.of(task(1, gpu(None), 9))
        assert (found.starts_in_ms, found.known, found.reason) == (0, True, Reason.RECLAIMING)

    def test_even_beside_one_that_has_grown_old(self) -> None:
        old = replace(task(2, gpu(None), 1), arrived_ms=-100_000_000)
        assert self.of(task(1, gpu(None), 9), old).starts_in_ms == 0

    def test_others_wait_for_the_end(self) -> None:
        assert self.of(task(1, gpu(None), 8)).starts_in_ms == 60_000

    def test_what_comes_behind_the_urgent_one_waits_for_that(self) -> None:
        urgent = lasting(task(1, gpu(None), 9), 4_000)
        assert self.of(task(2, gpu(None), 5), urgent).starts_in_ms == 4_000

    def test_nor_many_of_its_like(self) -> None:
        old = [replace(task(n, gpu(None), 1), arrived_ms=-100_000_000) for n in range(2, 20)]
        assert self.of(task(1, gpu(None), 9), *old).starts_in_ms == 0
