"""The way of a run: placed, begun, ended, and everything that may come between."""

from __future__ import annotations

import json

import pytest

from celeray.scheduler.cluster import EndCause, NodeLost, RunEnded
from celeray.scheduler.model import Isolation, Reason, ResourceRequest
from celeray.scheduler.states import ExecutorState, RunState
from celeray.scheduler.status import TaskState

from .harness import GIB, Harness, NotedPort, port

FRESH = ResourceRequest(gpus=1, memory_mib=8 * GIB, isolation=Isolation.FRESH)


def test_a_run_begins_when_its_executor_is_up_and_the_next_one_finds_it_warm() -> None:
    bridge = Harness()
    first = bridge.submit()
    bridge.step()
    assert port(first).told == [], "accepted only when it really begins"
    assert first.reason is Reason.STARTING
    executor_id = bridge.begin(first)
    assert port(first).told == [("begun", bridge.cluster.executors[executor_id].pid)]
    second = bridge.submit()
    bridge.step()
    bridge.cluster.finish(executor_id, "'done'")
    bridge.step()
    assert port(first).told[-1] == ("succeeded", "'done'")
    assert second.executor_id == executor_id, "begun in the same wake-up"
    records = [fact.stored("bridge", "host") for fact in bridge.recorder.take().facts]
    assert [json.loads(record.document)["warm"] for record in records] == [False, True]


def test_no_more_runs_than_the_window_are_under_way_though_messages_were_acknowledged_early() -> None:
    bridge = Harness(window=1)
    first = bridge.submit()
    executor_id = bridge.begin(first)
    second = bridge.submit()
    bridge.step()
    assert second.state is RunState.WAITING
    assert len(bridge.cluster.executors) == 1, "nor is another executor started for it"
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert second.executor_id == executor_id


def test_a_failed_run_is_told_and_the_executor_stays() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    bridge.cluster.finish(executor_id, "einfo", failed=True)
    bridge.step()
    assert port(run).words == ["begun", "failed"]
    executor = bridge.dispatcher.fleet.executors.get(executor_id)
    assert executor is not None
    assert executor.state is ExecutorState.IDLE


def test_an_executor_that_dies_loses_its_run_and_its_room_comes_back_with_a_reading() -> None:
    bridge = Harness()
    run = bridge.submit(gib=24)
    executor_id = bridge.begin(run)
    bridge.cluster.end(executor_id, detail="SIGKILL")
    waiting = bridge.submit(gib=24)
    bridge.step()
    assert port(run).words == ["begun", "lost"]
    assert "SIGKILL" in port(run).told[1][1]
    assert bridge.cluster.reads == ["n1"], "a reading is asked for at once"
    assert waiting.reason is Reason.RECLAIMING
    bridge.advance(1.0)
    assert bridge.begin(waiting) != executor_id


def test_a_message_that_is_not_wanted_any_more_never_begins() -> None:
    bridge = Harness()
    running = bridge.submit(gib=24)
    executor_id = bridge.begin(running)
    revoked = bridge.submit(gib=24)
    bridge.step()
    port(revoked).is_wanted = False
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert port(revoked).told == []
    assert revoked.state is RunState.ENDED
    assert len(bridge.dispatcher.waiting) == 0


def test_a_revoked_waiting_run_goes_when_celery_says_so_or_at_the_next_tick() -> None:
    bridge = Harness(up=False)
    first, second = bridge.submit(), bridge.submit()
    bridge.step()
    assert first.reason is Reason.CLUSTER_DOWN
    port(first).is_wanted = port(second).is_wanted = False
    first.terminate(15)
    assert first.state is RunState.ENDED
    bridge.upkeep.run_once(bridge.clock.monotonic())
    assert second.state is RunState.ENDED


def test_terminate_kills_the_executor_and_tells_nothing_more() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    assert run.key is not None
    bridge.dispatcher.terminate(run.key, 15, deadly=True)
    bridge.step()
    assert executor_id not in bridge.cluster.executors
    assert port(run).words == ["begun"], "Celery announced it itself"
    assert bridge.recorder.take().facts[-1].state is TaskState.REVOKED
    bridge.dispatcher.terminate(run.key, 15, deadly=True)


def test_a_signal_that_does_not_kill_is_passed_on() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    assert run.key is not None
    bridge.dispatcher.terminate(run.key, 10, deadly=False)
    assert bridge.cluster.executors[executor_id].signals == [10]
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert port(run).words == ["begun", "succeeded"]


def test_a_result_after_the_kill_is_not_told() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    assert run.key is not None
    bridge.dispatcher.terminate(run.key, 9, deadly=True)
    bridge.events.append(RunEnded(executor_id, run.run_id, b"late"))
    bridge.step()
    assert port(run).words == ["begun"]


def test_time_limits() -> None:
    bridge = Harness()
    run = bridge.submit(soft=5.0, hard=10.0)
    executor_id = bridge.begin(run)
    bridge.advance(4.9)
    assert port(run).words == ["begun"]
    bridge.advance(0.2)
    assert port(run).told[-1] == ("soft_limit", 5.0)
    bridge.advance(5.0)
    assert port(run).told[-1] == ("hard_limit", 10.0)
    assert executor_id not in bridge.cluster.executors
    bridge.advance(1.0)
    assert port(run).words == ["begun", "soft_limit", "hard_limit"]


def test_limits_of_an_ended_run_do_nothing() -> None:
    bridge = Harness()
    run = bridge.submit(soft=5.0, hard=10.0)
    executor_id = bridge.begin(run)
    bridge.cluster.finish(executor_id)
    bridge.step()
    bridge.advance(20.0)
    assert port(run).words == ["begun", "succeeded"]
    assert executor_id in bridge.cluster.executors


def test_a_fresh_run_begins_when_its_process_says_so() -> None:
    bridge = Harness()
    run = bridge.submit(request=FRESH)
    bridge.step()
    assert run.state is RunState.RESERVED
    assert run.executor_id is not None
    bridge.cluster.begin(run.executor_id)
    bridge.step()
    assert port(run).words == ["begun"]
    executor_id = run.executor_id
    bridge.cluster.finish(executor_id)
    bridge.cluster.end(executor_id, EndCause.STOPPED)
    bridge.step()
    bridge.advance(1.0)
    assert port(run).words == ["begun", "succeeded"]
    assert len(bridge.dispatcher.fleet.executors) == 0


def test_a_fresh_process_that_never_began_is_no_attempt() -> None:
    bridge = Harness()
    run = bridge.submit(request=FRESH)
    bridge.step()
    assert run.executor_id is not None
    bridge.cluster.end(run.executor_id, EndCause.START_FAILED, "no such module")
    bridge.step()
    assert port(run).told == []
    assert run.state is RunState.WAITING
    assert run.reason is Reason.EXECUTOR_FAILED
    bridge.advance(1.1)
    assert run.state is RunState.RESERVED


def test_two_runs_on_equal_pids_of_two_nodes_have_keys_of_their_own() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 8 * GIB)], "n2": [("GPU-b", "T4", 8 * GIB)]})
    runs = [bridge.submit(), bridge.submit()]
    bridge.step()
    for executor in bridge.cluster.executors.values():
        executor.pid = 77
    bridge.cluster.start_all()
    bridge.step()
    keys = [run.key for run in runs]
    assert 77 in keys
    assert len(set(keys)) == 2
    assert all(key is not None for key in keys)


def test_what_has_not_begun_goes_back_at_shutdown_and_nothing_begins_after() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 16 * GIB)]})
    running = bridge.submit(gib=8)
    executor_id = bridge.begin(running)
    reserved = bridge.submit(request=FRESH)
    waiting = bridge.submit(gib=8)
    bridge.step()
    assert reserved.state is RunState.RESERVED
    bridge.dispatcher.close()
    assert port(waiting).words == ["give_back"]
    assert port(reserved).words == ["give_back"]
    bridge.cluster.finish(executor_id)
    bridge.advance(1.0)
    assert port(running).words == ["begun", "succeeded"]
    assert not len(bridge.dispatcher.running)


@pytest.mark.parametrize(("others", "word"), [(False, "refused"), (True, "give_back")])
def test_what_fits_nowhere_fails_or_goes_back_for_another_bridge(others: bool, word: str) -> None:
    bridge = Harness(others=others, never_fits_after_s=10)
    run = bridge.submit(gib=100)
    bridge.step()
    assert run.reason is Reason.NEVER_FITS
    bridge.advance(9.0)
    assert port(run).told == []
    bridge.advance(1.0)
    assert port(run).words == [word]
    assert len(bridge.dispatcher.waiting) == 0


def test_a_second_delivery_of_a_running_message_does_not_run_it_again() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    first, second = port(run), NotedPort()
    assert bridge.dispatcher.adopt(run.task_id, 1, second) is None, "a retry is another message"
    assert bridge.dispatcher.adopt("another", 0, second) is None
    assert bridge.dispatcher.adopt(run.task_id, 0, second) is run
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert first.words == ["begun", "superseded"]
    assert second.words == ["begun", "succeeded"]
    assert bridge.dispatcher.adopt(run.task_id, 0, NotedPort()) is None


def test_what_can_not_be_handed_over_fails_alone() -> None:
    bridge = Harness()
    executor_id = bridge.begin(bridge.submit())
    bridge.cluster.finish(executor_id)
    bridge.step()
    broken, sound = bridge.submit(), bridge.submit()
    port(broken).payload_error = ValueError("can't be pickled")
    bridge.step()
    assert port(broken).told == [("refused", "can't be pickled")]
    bridge.step()
    assert port(sound).words == ["begun"]
    assert sound.executor_id == executor_id


def test_one_loss_that_can_not_be_told_does_not_hide_the_others() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 16 * GIB)]})
    runs = [bridge.submit(), bridge.submit()]
    bridge.step()
    bridge.cluster.start_all()
    bridge.step()
    port(runs[0]).lost_error = RuntimeError("no broker")
    bridge.events.append(NodeLost("n1"))
    bridge.step()
    assert [port(run).words[-1] for run in runs] == ["lost", "lost"]
    assert not len(bridge.dispatcher.running)


def test_limits_of_ended_runs_are_not_kept() -> None:
    bridge = Harness()
    executor_id = bridge.begin(bridge.submit(soft=3600, hard=7200))
    for _ in range(200):
        bridge.cluster.finish(executor_id)
        bridge.submit(soft=3600, hard=7200)
        bridge.step()
    assert len(bridge.dispatcher.deadlines) == 2
    assert len(bridge.dispatcher.deadlines._heap) < 200


def test_what_can_never_fit_is_forgotten_once_nothing_of_it_waits() -> None:
    bridge = Harness(cluster_may_grow=True)
    run = bridge.submit(gib=500)
    bridge.advance(1.0)
    assert run.shape in bridge.dispatcher.never_since
    bridge.dispatcher.runs.give_back(run)
    bridge.advance(1.0)
    assert not bridge.dispatcher.never_since
