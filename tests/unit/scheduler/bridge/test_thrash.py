"""Two models and room for one of them: what is loaded serves, before it makes room."""

from __future__ import annotations

import pytest

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.states import RunState

from .harness import Harness

START_S = 4.0
RUN_S = 1.0


def starts_of_turns(bridge: Harness, runs: int, *, tenants: bool = False) -> int:
    """How many executors are started for that many runs of two models, which come in turns."""
    waiting: list[Run] = [
        bridge.submit(f"model.{model}", gib=20, tenant=model if tenants else None)
        for model in ("ab"[n % 2] for n in range(runs))
    ]
    known: set[str] = set()
    for _ in range(100 * runs):
        bridge.step()
        for executor_id, executor in list(bridge.cluster.executors.items()):
            if executor_id not in known:
                known.add(executor_id)
                bridge.clock.advance(START_S)
                bridge.cluster.read_all(bridge.clock.monotonic())
                bridge.step()
                bridge.cluster.start_all()
                bridge.step()
            elif executor.runs:
                bridge.clock.advance(RUN_S)
                bridge.cluster.finish(executor_id, seconds=RUN_S)
        bridge.advance(0.1)
        waiting = [run for run in waiting if run.state is not RunState.ENDED]
        if not waiting:
            return len(known)
    raise AssertionError(f"{len(waiting)} runs did not end")


@pytest.mark.parametrize(("min_stay", "most"), [(0.0, 60), (3.0, 8)], ids=["without", "with"])
def test_models_that_do_not_fit_together_are_not_loaded_in_turns(min_stay: float, most: int) -> None:
    started = starts_of_turns(Harness(executor_min_stay=min_stay), runs=60)
    assert started <= most
    if not min_stay:
        assert started > 30, "the test bites: each task ends the other's executor"


def test_tenants_take_turns_no_faster_than_models_are_worth_loading() -> None:
    assert starts_of_turns(Harness(executor_min_stay=3.0), runs=60, tenants=True) <= 8
