"""What a bridge publishes of its next cycle, and that what is forecast from it then happens in that bridge."""

from __future__ import annotations

import pytest

from celeray.scheduler.bridge.cycle_report import CycleReport
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.explanations.published import PublishedCycle
from celeray.scheduler.explanations.waiting import forecast_of
from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.placement.forecasting import Forecast, NoForecast
from celeray.scheduler.states import RunState

from .harness import GIB, Harness

FOUR = {"n1": [(f"GPU-{n}", "A100", 24 * GIB) for n in range(4)]}


def taken(bridge: Harness) -> PublishedCycle:
    found = CycleReport("b1", bridge.dispatcher).take(bridge.clock.monotonic())
    assert found is not None
    return found


def begun(bridge: Harness, seconds: float, **asks: object) -> Run:
    """A run that is expected to take so long."""
    run = submitted(bridge, seconds, **asks)
    bridge.begin(run)
    return run


def submitted(bridge: Harness, seconds: float | None, gpus: int = 1, name: str = "film.generate") -> Run:
    expected = None if seconds is None else round(seconds * 1000)
    request = ResourceRequest(gpus=gpus, exclusive=True, expected_ms=expected)
    return bridge.submit(name, request=request)


def forecasts(bridge: Harness, *runs: Run) -> list[Forecast]:
    found = forecast_of(taken(bridge).bounded(), {run.task.sequence for run in runs})
    return [found[run.task.sequence] for run in runs]


def test_at_most_once_a_second() -> None:
    bridge = Harness()
    report = CycleReport("b1", bridge.dispatcher)
    assert report.take(10.0) is not None
    assert report.take(10.9) is None
    assert report.take(11.0) is not None


def test_what_was_placed_is_not_shown_as_free_and_nothing_waits() -> None:
    bridge = Harness()
    run = begun(bridge, 5.0)
    found = taken(bridge)
    (device,) = found.cycle.snapshot.nodes[0].devices
    assert (device.schedulable_mib, device.exclusive, found.cycle.waiting) == (0, True, ())
    assert [executor.ends_in_ms for executor in found.cycle.snapshot.executors] == [5_000]
    assert run.state is RunState.RUNNING


def test_the_snapshot_of_a_cycle_that_changed_nothing_serves_again() -> None:
    bridge = Harness()
    begun(bridge, 5.0)
    submitted(bridge, 1.0)
    bridge.step()
    bridge.clock.advance(0.4)
    found, last = taken(bridge), bridge.dispatcher.last_cycle
    assert last is not None
    assert found.cycle.snapshot is last.snapshot
    assert found.now_ms == round((bridge.clock.monotonic() - 0.4) * 1000)
    bridge.dispatcher.dirty = True
    assert taken(bridge).cycle.snapshot is not last.snapshot


def test_what_waits_comes_with_its_reason_in_the_order_of_placement() -> None:
    bridge = Harness()
    begun(bridge, 5.0)
    late, first = submitted(bridge, 1.0), bridge.submit(gib=8, priority=9)
    bridge.step()
    found = taken(bridge).bounded()
    assert [task.sequence for task in found.cycle.waiting] == [first.task.sequence, late.task.sequence]
    assert set(found.reasons.values()) == {Reason.EXCLUSIVE}
    assert found.reserved is not None
    assert found.reserved.sequence == first.task.sequence
    cut = found.bounded(1)
    assert ([task.sequence for task in cut.cycle.waiting], cut.left_out) == ([first.task.sequence], 1)
    assert set(cut.reasons) == {first.task.sequence}


def test_a_reservation_of_a_task_that_waits_no_more_is_left_out() -> None:
    bridge = Harness()
    begun(bridge, 5.0)
    run = submitted(bridge, 1.0)
    bridge.step()
    bridge.dispatcher.runs.discard(run)
    assert bridge.dispatcher.reserved is not None
    assert taken(bridge).reserved is None


def test_executors_that_fail_to_start_are_no_forecast() -> None:
    bridge = Harness()
    run = submitted(bridge, 1.0)
    bridge.step()
    bridge.dispatcher.fleet.starts.failed(run.task.executor_class, bridge.clock.monotonic())
    run.reason = Reason.EXECUTOR_FAILED
    (found,) = forecasts(bridge, run)
    assert (found.starts_in_ms, found.why, found.reason) == (
        None,
        NoForecast.EXECUTOR_FAILED,
        Reason.EXECUTOR_FAILED,
    )


@pytest.mark.parametrize("backlog", [0, 3])
def test_a_gang_behind_known_runs_starts_exactly_when_predicted(backlog: int) -> None:
    """Each run ends when it was expected to, and the bridge is played second by second."""
    bridge = Harness(FOUR)
    runs = [begun(bridge, seconds) for seconds in (3.0, 9.0, 5.0, 7.0)]
    ends = {run.task.sequence: end for run, end in zip(runs, (3, 9, 5, 7), strict=True)}
    waiting = [submitted(bridge, 2.0) for _ in range(backlog)]
    gang = submitted(bridge, 4.0, gpus=4, name="film.train")
    waiting.append(gang)
    bridge.step()
    found = forecasts(bridge, *waiting)
    assert all(one.known for one in found)
    predicted = [one.starts_in_ms for one in found]
    assert predicted[-1] == 9_000
    begins = play(bridge, waiting, ends)
    assert predicted == [1_000 * begins[run.task.sequence] for run in waiting]


def play(bridge: Harness, waiting: list[Run], ends: dict[int, int]) -> dict[int, int]:
    """By sequence number, in which second each of them begins."""
    begins: dict[int, int] = {}
    for now in range(60):
        for sequence in [sequence for sequence, end in ends.items() if end == now]:
            run = next(run for run in bridge.dispatcher.running if run.task.sequence == sequence)
            assert run.executor_id is not None
            bridge.cluster.finish(run.executor_id, seconds=1.0)
        settle(bridge)
        for run in waiting:
            if run.state is RunState.RUNNING and run.task.sequence not in begins:
                begins[run.task.sequence] = now
                assert run.task.expected_ms is not None
                ends[run.task.sequence] = now + run.task.expected_ms // 1000
        if len(begins) == len(waiting):
            return begins
        bridge.advance(1.0)
    raise AssertionError(f"they did not begin: {begins}")


def settle(bridge: Harness) -> None:
    """Executors start and end at once, and what they had is read at once, as a forecast takes it."""
    for _ in range(6):
        bridge.step()
        bridge.cluster.start_all()
        bridge.clock.advance(0.001)
        bridge.cluster.read_all(bridge.clock.monotonic())
        bridge.dispatcher.dirty = True
    bridge.step()


def test_a_short_task_fills_the_gap_before_a_gang_as_predicted() -> None:
    bridge = Harness({"n1": [(f"GPU-{n}", "A100", 24 * GIB) for n in range(2)]})
    first = submitted(bridge, 3.0)
    gang, short = submitted(bridge, 2.0, gpus=2, name="film.train"), submitted(bridge, 2.0, name="film.x")
    found = forecasts(bridge, first, gang, short)
    predicted = [one.starts_in_ms for one in found]
    assert predicted == [0, 3_000, 0]
    begins = play(bridge, [first, gang, short], {})
    assert predicted == [1_000 * begins[run.task.sequence] for run in (first, gang, short)]
