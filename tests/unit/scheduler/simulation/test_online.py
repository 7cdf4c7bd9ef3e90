"""The online simulator: waits by hand, and that the tasks it hands to a cycle are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from celeray.scheduler.model import Decisions, Snapshot, WaitingTask
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.placement.policy import Order
from celeray.scheduler.simulation import online
from celeray.scheduler.simulation.figures import OnlineFigures, online_figures
from celeray.scheduler.simulation.nodes import NodeSpec
from celeray.scheduler.simulation.online import OnlineRun, run_online
from celeray.scheduler.simulation.policies import POLICIES, policy_of
from celeray.scheduler.simulation.workload import Arrival
from tests.unit.scheduler.simulation.small import mixed_arrivals, node, task

NODES = [node("a", 8, 8), node("b", 8)]
ORDERS: Mapping[str, Order] = {
    "reserve": Order(),
    "backfill": Order(reserve=False),
    "strict": Order(overtaken_most=2, aging_ms=0),
}


def starts(run: OnlineRun) -> dict[str, int]:
    return {run.arrivals[start.sequence].task.name: start.at_ms for start in run.starts}


def but_for_time(figures: OnlineFigures) -> dict[str, Any]:
    return {key: value for key, value in asdict(figures).items() if not key.startswith("microseconds")}


def test_a_task_waits_until_another_one_leaves() -> None:
    arrivals = [Arrival(task("first", 6), 0, 100), Arrival(task("second", 6), 10, 50)]
    run = run_online(arrivals, [node("n", 8)], Policy())
    assert starts(run) == {"first": 0, "second": 100}
    figures = online_figures(run, [node("n", 8)])
    assert figures.wait_mean_s == 0.045
    assert (figures.wait_percentiles_s[50], figures.wait_percentiles_s[100]) == (0.0, 0.09)


def big_behind_small(reserve: bool) -> dict[str, int]:
    """A stream of small tasks, and one that needs both devices."""
    arrivals = [
        Arrival(task("s0", 8), 0, 100),
        Arrival(task("big", 8, gpus=2), 1, 100),
        Arrival(task("long", 8), 2, 1000),
        Arrival(task("short", 8), 3, 90),
    ]
    return starts(run_online(arrivals, [node("n", 8, 8)], Policy(order=Order(reserve=reserve))))


def test_a_reservation_lets_only_those_go_before_that_end_in_time() -> None:
    assert big_behind_small(reserve=True) == {"s0": 0, "short": 3, "big": 100, "long": 200}


def test_without_it_a_large_task_waits_for_all_that_fits() -> None:
    assert big_behind_small(reserve=False) == {"s0": 0, "long": 2, "short": 100, "big": 1002}


def test_what_can_never_fit_is_counted_and_keeps_nobody_waiting() -> None:
    arrivals = [Arrival(task(f"huge{n}", 9), n, 10) for n in range(3)] + [Arrival(task("ok", 8), 3, 10)]
    run = run_online(arrivals, [node("n", 8)], Policy())
    assert (run.never_fit, run.unplaced, starts(run)) == (3, 0, {"ok": 3})


def test_what_leaves_and_what_arrives_at_one_instant_meet() -> None:
    arrivals = [Arrival(task("a", 8), 0, 10), Arrival(task("b", 8), 10, 10)]
    assert starts(run_online(arrivals, [node("n", 8)], Policy())) == {"a": 0, "b": 10}


def assert_heads_are_enough(name: str, order: Order, seed: int) -> None:
    arrivals = mixed_arrivals(70, seed, priorities=(3, 5, 5, 7))
    tasks = [arrival.task for arrival in arrivals]
    policy = policy_of(name, tasks, seed=seed, order=order)
    few = run_online(arrivals, NODES, policy)
    assert few.starts == run_online(arrivals, NODES, policy, see_all=True).starts
    assert len(few.starts) == len(arrivals)
    waited = [start for start in few.starts if start.at_ms > arrivals[start.sequence].at_ms]
    assert len(waited) > 25  # else it shows nothing


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_heads_are_enough(order: Order) -> None:
    assert_heads_are_enough("default", order, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("name", POLICIES)
def test_the_heads_are_enough_for_every_policy(name: str, order: Order) -> None:
    for seed in range(5):
        assert_heads_are_enough(name, order, seed)


def test_a_cycle_sees_less_than_the_backlog() -> None:
    arrivals = [Arrival(task(f"t{number}", 8), 0, 10 + number) for number in range(200)]
    few = run_online(arrivals, [node("n", 8)], Policy())
    everything = run_online(arrivals, [node("n", 8)], Policy(), see_all=True)
    assert few.starts == everything.starts
    assert few.decided < everything.decided / 10


def test_as_many_of_a_kind_begin_at_once_as_there_is_room_for() -> None:
    arrivals = [Arrival(task("whole", 8), 0, 100)]
    arrivals += [Arrival(task(f"t{number}", 1), 1 + number, 50 + number) for number in range(10)]
    begun = starts(run_online(arrivals, [node("n", 8)], Policy()))
    assert [begun[f"t{number}"] for number in range(10)] == [100] * 8 + [150, 151]


@pytest.fixture
def cycles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[WaitingTask], Snapshot]]:
    """What the real `place` was given."""
    seen: list[tuple[Sequence[WaitingTask], Snapshot]] = []

    def watched(waiting: Sequence[WaitingTask], snapshot: Snapshot, policy: Policy) -> Decisions:
        seen.append((waiting, snapshot))
        return place(waiting, snapshot, policy)

    monkeypatch.setattr(online, "place", watched)
    return seen


def test_overtaken_counts_lower_priorities_where_the_task_could_run(
    cycles: list[tuple[Sequence[WaitingTask], Snapshot]],
) -> None:
    nodes = [node("one", 8), node("two", 8, 8)]
    arrivals = [
        Arrival(task("blocks", 8), 0, 1000),
        Arrival(task("holds", 6), 1, 1000),
        Arrival(task("urgent", 8, gpus=2, priority=7), 2, 10),
        Arrival(task("low", 2, priority=3), 3, 10),
        Arrival(task("lower", 8, priority=3), 4, 10),
        Arrival(task("after", 2, gpus=2, priority=7), 5, 10),
    ]
    run_online(arrivals, nodes, Policy(name="first_fit", order=Order(reserve=False)))
    overtaken = {one.task_id: one.overtaken for waiting, _ in cycles for one in waiting}
    # `low` and `lower` went to the node of two, where `urgent` could run and the node of one would not do.
    assert overtaken["urgent"] == 2
    assert overtaken["after"] == 0


def test_unchanged_nodes_stay_the_same_objects(
    cycles: list[tuple[Sequence[WaitingTask], Snapshot]],
) -> None:
    nodes = [node("a", 8), node("b", 8)]
    run_online([Arrival(task("x", 8), 0, 50), Arrival(task("y", 8), 1, 50)], nodes, Policy(name="first_fit"))
    (_, before), (_, after) = cycles
    assert [old is new for old, new in zip(before.nodes, after.nodes, strict=True)] == [False, True]
    assert [executor.ends_in_ms for executor in after.executors] == [49]


def test_one_seed_gives_equal_figures() -> None:
    found = [
        but_for_time(online_figures(run_online(mixed_arrivals(60, 4), NODES, Policy()), NODES)) for _ in "ab"
    ]
    assert found[0] == found[1]


def used(nodes: Sequence[NodeSpec], *arrivals: Arrival) -> float | None:
    return online_figures(run_online(arrivals, nodes, Policy()), nodes).utilisation_pct


def test_utilisation_counts_from_the_first_fifth_to_the_last_arrival() -> None:
    filler = [Arrival(task(f"t{number}", 4), 100 * number, 50) for number in range(10)]
    # From 200 to 900 ms: eight arrivals begin in it, the last one at its very end; each holds half for 50 ms.
    assert used([node("n", 8)], *filler) == pytest.approx(100 * 7 * 50 * 0.5 / 700)


def test_waits_of_several_devices_and_of_services_stand_apart() -> None:
    run = run_online(
        [Arrival(task("a", 8), 0, 100), Arrival(task("b", 8, gpus=2), 0, 100)], [node("n", 8, 8)], Policy()
    )
    figures = online_figures(run, [node("n", 8, 8)])
    assert (figures.multi_device_wait_mean_s, figures.multi_device_tasks) == (0.1, 1)
    assert figures.wait_mean_s_by_service == {"": 0.05}


def test_a_wait_before_a_short_run_is_no_large_slowdown() -> None:
    run = run_online(
        [Arrival(task("a", 8), 0, 1000), Arrival(task("b", 8), 0, 100)], [node("n", 8)], Policy()
    )
    assert online_figures(run, [node("n", 8)]).slowdown == 1.0
