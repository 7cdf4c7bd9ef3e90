"""A task waits for a busy executor of its class rather than for the start of another, as long as that is sooner."""

from __future__ import annotations

from celeray.scheduler.bridge.expected import RUNS_MIN
from celeray.scheduler.bridge.fleet import ExecutorLimits
from celeray.scheduler.cluster import EndCause
from celeray.scheduler.model import Reason
from celeray.scheduler.states import RunState

from .harness import Harness

START_S, RUN_S = 10.0, 2.0


def one_busy(limits: ExecutorLimits | None = None) -> Harness:
    """A bridge whose only executor took 10 s to start, and has just begun what usually takes 2 s."""
    bridge = Harness(reading_interval_s=1.0, limits=limits)
    first = bridge.submit()
    bridge.step()
    bridge.advance(START_S)
    bridge.cluster.start_all()
    bridge.step()
    assert first.executor_id is not None
    bridge.cluster.finish(first.executor_id, seconds=RUN_S)
    bridge.step()
    for _ in range(RUNS_MIN):
        bridge.dispatcher.times.expected.learn("film.generate", RUN_S)
    bridge.submit()
    bridge.step()
    return bridge


def test_it_takes_the_executor_that_is_free_soon() -> None:
    bridge = one_busy()
    second = bridge.submit()
    bridge.step()
    assert second.reason is Reason.BUSY
    (executor_id,) = bridge.cluster.executors
    bridge.clock.advance(RUN_S)
    bridge.cluster.finish(executor_id, seconds=RUN_S)
    bridge.step()
    assert (second.state, second.executor_id) == (RunState.RUNNING, executor_id)


def test_an_overdue_run_is_waited_for_no_more() -> None:
    bridge = one_busy()
    second = bridge.submit()
    bridge.step()
    bridge.advance(1.1 * RUN_S)
    assert second.reason is Reason.STARTING
    assert len(bridge.cluster.executors) == 2


def test_a_backlog_still_spreads() -> None:
    bridge = one_busy()
    runs = [bridge.submit() for _ in range(2)]
    bridge.step()
    assert [run.reason for run in runs] == [Reason.STARTING, Reason.STARTING], "one reason a shape"
    assert len(bridge.cluster.executors) == 2


def test_busy_executors_do_not_undo_the_backoff_of_failed_starts() -> None:
    bridge = one_busy()
    runs = [bridge.submit() for _ in range(4)]
    bridge.step()
    failed = 0
    for _ in range(20):
        for executor_id, executor in list(bridge.cluster.executors.items()):
            if not executor.runs:
                bridge.cluster.end(executor_id, EndCause.START_FAILED, "ImportError")
                failed += 1
        bridge.advance(0.01)
    assert 1 <= failed <= 4
    assert {run.reason for run in runs} == {Reason.EXECUTOR_FAILED}


def test_nobody_waits_for_an_executor_that_ends_after_its_run() -> None:
    bridge = one_busy(limits=ExecutorLimits(max_runs=2))
    bridge.submit()
    bridge.step()
    assert len(bridge.cluster.executors) == 2, "another one starts at once"
