"""The inflation experiment: its protocol, and that its one cycle is the same as placing one by one."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.model import Decisions, Placement
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.simulation import inflation
from celeray.scheduler.simulation.cluster import SimulatedCluster, SimulationError
from celeray.scheduler.simulation.inflation import InflationRun, run_inflation
from celeray.scheduler.simulation.nodes import read_nodes
from celeray.scheduler.simulation.policies import ONE_BY_ONE, POLICIES, policy_of
from celeray.scheduler.simulation.trace import read_trace
from tests.unit.scheduler.simulation.small import mixed_tasks, node, task

SAMPLES = Path(__file__).parents[4] / "benchmarks" / "samples"
NODES = [node("a", 8, 8, 8, 8), node("b", 8, 8), node("c", 8), node("d", 8, 8)]


def but_for_time(run: InflationRun) -> dict[str, Any]:
    return {key: value for key, value in asdict(run).items() if key != "seconds"}


def test_two_tasks_a_device_fill_it_and_the_rest_is_refused() -> None:
    run = run_inflation([task("half", 4)] * 8, [node("n", 8, 8)], Policy(order=ONE_BY_ONE), seed=1)
    assert run.tasks == 6  # of 4 GiB each until 130 % of 16 GiB are asked for
    assert (run.allocation_at(50), run.allocation_at(100), run.allocation_at(130)) == (50.0, 100.0, 100.0)
    assert run.failed == (0, 2)
    assert run.idle_devices == (0.0, 0.0)
    assert run.first_refused_pct == 125.0
    assert run.fragment_pct == 0.0


def test_what_no_task_can_use_is_fragment() -> None:
    run = run_inflation([task("most", 6)], [node("n", 8, 8, 8)], Policy(order=ONE_BY_ONE), seed=1)
    assert run.allocation_at(100) == 75.0
    assert run.fragment_pct == 25.0
    assert run.idle_devices == (0.75, 0.75)


@pytest.mark.parametrize("name", POLICIES)
def test_one_cycle_is_the_same_as_one_by_one(name: str) -> None:
    tasks = mixed_tasks(60, seed=3)
    policy = policy_of(name, tasks, seed=5, order=ONE_BY_ONE)
    run = run_inflation(tasks, NODES, policy, seed=5)
    draw = random.Random(5)
    arriving = inflation.inflated(tasks, inflation.Weigher(NODES), draw)
    cluster = SimulatedCluster(draw.sample(NODES, len(NODES)))
    failed = 0
    for sequence, one in enumerate(arriving):
        decisions = place([one.waiting(sequence)], cluster.snapshot(), policy)
        failed += not decisions.placements
        for placement in decisions.placements:
            cluster.take(placement, one.request)
    assert run.failed[1] == failed > 0
    assert run.allocation_at(130) == pytest.approx(100 * cluster.used_mib / cluster.capacity_mib)


def test_a_seed_repeats_and_another_one_does_not() -> None:
    tasks = mixed_tasks(60, seed=3)
    policy = Policy(name="first_fit", order=ONE_BY_ONE)
    runs = [but_for_time(run_inflation(tasks, NODES, policy, seed=seed)) for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]


def test_a_policy_that_overbooks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(waiting: Any, snapshot: Any, _: Any) -> Decisions:
        device = snapshot.nodes[0].devices[0].uuid
        made = [
            Placement(one.task_id, snapshot.nodes[0].node_id, (device,), 6144, None, one.sequence)
            for one in waiting
        ]
        return Decisions(tuple(made))

    monkeypatch.setattr(inflation, "place", careless)
    with pytest.raises(SimulationError, match="MiB left"):
        run_inflation([task("most", 6)], [node("n", 8)], Policy(order=ONE_BY_ONE), seed=1)


def test_a_trace_without_devices_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no task with a device"):
        run_inflation([task("cpu", None, gpus=0, cpus=1)], NODES, Policy(), seed=1)


def test_the_order_of_the_policies_holds_on_the_sample() -> None:
    tasks, nodes = read_trace(SAMPLES / "tasks.csv"), read_nodes(SAMPLES / "nodes.csv")
    found = {
        name: run_inflation(tasks, nodes, policy_of(name, tasks, seed=1, order=ONE_BY_ONE), seed=1)
        for name in ("default", "spread")
    }
    assert found["default"].allocation_at(100) > found["spread"].allocation_at(100) + 2
    assert found["default"].fragment_pct < found["spread"].fragment_pct
