"""Behind a reservation the shortest run comes first, within one priority, and nobody waits for ever for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.model import Decisions, Snapshot, WaitingTask
from celeray.scheduler.placement import Order, Policy, place
from celeray.scheduler.simulation.online import run_online
from celeray.scheduler.simulation.workload import Arrival
from tests.unit.scheduler.simulation import small

from .clusters import device, gpu, node, snapshot, task, warm

OLDEST = Policy(order=Order(shortest_first=False))


def one_device_left() -> Snapshot:
    running = warm(9, "other", "a", "a0", gib=24, idle=False, ends_in_ms=60_000)
    return snapshot(node("a", device("a0", 24, 0, holders=1), device("a1")), executors=(running,))


def lasting(number: int, expected_ms: int | None, priority: int = 5) -> WaitingTask:
    return replace(task(number, gpu(24), priority), expected_ms=expected_ms)


def started(decisions: Decisions) -> list[int]:
    return [placement.sequence for placement in decisions.placements]


@pytest.mark.parametrize(("policy", "first"), [(Policy(), 3), (OLDEST, 2)])
def test_the_gap_goes_to_the_shortest(policy: Policy, first: int) -> None:
    gang = task(1, gpu(24, gpus=2))
    decisions = place([gang, lasting(2, 40_000), lasting(3, 10_000)], one_device_left(), policy)
    assert decisions.reserved is not None
    assert decisions.reserved.sequence == 1
    assert started(decisions) == [first]


def test_one_of_which_nothing_is_known_comes_last_and_a_higher_priority_first() -> None:
    gang = task(1, gpu(24, gpus=2), 8)
    unknown, known, urgent = lasting(2, None), lasting(3, 30_000), lasting(4, 50_000, priority=7)
    assert started(place([gang, unknown, known], one_device_left(), Policy())) == [3]
    assert started(place([gang, known, urgent], one_device_left(), Policy())) == [4]


def test_as_long_as_all_have_a_place_the_oldest_comes_first() -> None:
    cluster = snapshot(node("a", device("a0"), device("a1")))
    assert started(place([lasting(1, 90_000), lasting(2, 1_000)], cluster, Policy())) == [1, 2]


@pytest.mark.parametrize("shortest_first", [True, False])
def test_a_long_run_is_not_put_off_for_as_long_as_shorter_ones_come(shortest_first: bool) -> None:
    """More short tasks come than the device can take: by length alone the long one would be the last of all."""
    stream = [Arrival(small.task(f"s{number}", 8), 40 * number, 100) for number in range(400)]
    long = Arrival(small.task("long", 8), 1_000, 3_000)
    arrivals = sorted([*stream, long], key=lambda arrival: arrival.at_ms)
    run = run_online(arrivals, [small.node("n", 16)], Policy(order=Order(shortest_first=shortest_first)))
    assert len(run.starts) == 401
    (begun,) = [start.at_ms for start in run.starts if arrivals[start.sequence].task.name == "long"]
    assert begun < 2_000
    assert max(start.at_ms for start in run.starts) > 15_000
