"""Arrivals: as recorded, and drawn for a load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.simulation.workload import LONGEST_S, poisson, recorded
from tests.unit.scheduler.simulation.small import GIB, node, task

NODES = [node("a", 8, 8), node("b", 16)]


def test_a_recorded_trace_begins_at_zero_and_leaves_out_what_is_not_known() -> None:
    one, two = task("one", 4), task("two", 4)
    tasks = [
        replace(two, arrived_s=107.5, run_s=0.0),
        replace(one, arrived_s=100.0, run_s=2.5),
        replace(one, arrived_s=100.0),
        replace(one, run_s=2.0),
    ]
    found = [(arrival.task.name, arrival.at_ms, arrival.run_ms) for arrival in recorded(tasks)]
    assert found == [("one", 0, 2500), ("two", 7500, 1)]


def test_a_trace_without_times_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no task with a time of arrival"):
        recorded([task("one", 4)])


def test_the_load_is_exact_and_long_runs_are_cut() -> None:
    tasks = [replace(task("a", 4), run_s=30.0), replace(task("b", None, gpus=2), run_s=1e6)]
    arrivals = poisson(tasks, NODES, load=0.8, count=500, seed=3)
    assert {arrival.run_ms for arrival in arrivals} == {30_000, round(LONGEST_S * 1000)}
    whole = 32 * GIB / 3
    work = sum(arrival.task.vram_mib(whole) * arrival.run_ms for arrival in arrivals)
    assert work / (32 * GIB * arrivals[-1].at_ms) == pytest.approx(0.8, rel=1e-6)
    assert [one.at_ms for one in arrivals] == sorted(one.at_ms for one in arrivals)


def test_only_tasks_with_a_device_that_run_for_a_second_are_drawn() -> None:
    short, plain = replace(task("short", 4), run_s=0.5), replace(task("cpu", None, gpus=0), run_s=9.0)
    kept = replace(task("kept", 4), run_s=1.0)
    arrivals = poisson([short, plain, kept], NODES, load=1.0, count=50, seed=1)
    assert {arrival.task.name for arrival in arrivals} == {"kept"}
    with pytest.raises(ConfigurationError, match="runs for 1 s or longer"):
        poisson([short, plain], NODES, load=1.0, count=50, seed=1)


def test_a_seed_repeats_and_another_one_does_not() -> None:
    tasks = [replace(task(f"t{number}", 4), run_s=10.0 + number) for number in range(9)]
    drawn = [poisson(tasks, NODES, load=1.0, count=50, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
