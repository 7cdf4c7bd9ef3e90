"""Short tasks go to an executor together, and each of them still ends for itself."""

from __future__ import annotations

import json

import pytest

from celeray.scheduler.bridge.fleet import ExecutorLimits
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.cluster import Progress
from celeray.scheduler.states import RunState
from celeray.scheduler.status import TaskState

from .harness import Harness, port


def backlog(bridge: Harness, count: int) -> list[Run]:
    return [bridge.submit(batchable=True) for _ in range(count)]


def batched(bridge: Harness, count: int) -> tuple[str, list[Run]]:
    """An executor that has `count` runs in one call."""
    executor_id = bridge.learn(2**-10)
    runs = backlog(bridge, count)
    bridge.step()
    assert bridge.batch(executor_id) == [run.run_id for run in runs]
    return executor_id, runs


def test_a_backlog_of_short_tasks_goes_in_one_call_and_the_next_one_follows_when_all_have_ended() -> None:
    bridge = Harness()
    executor_id = bridge.learn(2**-10)
    runs = backlog(bridge, 25)
    bridge.step()
    assert bridge.batch(executor_id) == [run.run_id for run in runs[:20]], "20 ms of predicted work"
    assert {run.state for run in runs[:20]} == {RunState.RUNNING}
    for _ in range(19):
        bridge.cluster.finish(executor_id, seconds=2**-10)
        bridge.step()
    assert len(bridge.batch(executor_id)) == 1, "one batch at a time"
    bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.step()
    assert bridge.batch(executor_id) == [run.run_id for run in runs[20:]]
    assert [port(run).words for run in runs[:20]] == [["begun", "succeeded"]] * 20


def test_what_is_not_known_to_be_short_goes_alone() -> None:
    bridge = Harness()
    first = bridge.submit(batchable=True)
    executor_id = bridge.begin(first)
    runs = backlog(bridge, 3)
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert bridge.batch(executor_id) == [runs[0].run_id], "not measured"
    bridge.cluster.finish(executor_id, seconds=0.5)
    bridge.step()
    assert bridge.batch(executor_id) == [runs[1].run_id], "long"


@pytest.mark.parametrize("kind", [{"soft": 5.0}, {"hard": 5.0}, {"batchable": False}])
def test_a_time_limit_an_early_ack_or_a_repeat_goes_alone(kind: dict[str, float]) -> None:
    bridge = Harness()
    executor_id = bridge.learn(2**-10)
    special = bridge.submit(**({"batchable": True} | kind))  # type: ignore[arg-type]
    behind = backlog(bridge, 2)
    bridge.step()
    assert bridge.batch(executor_id) == [special.run_id]
    bridge.cluster.finish(executor_id, seconds=2**-10)
    last = bridge.submit(**({"batchable": True} | kind))  # type: ignore[arg-type]
    bridge.step()
    assert bridge.batch(executor_id) == [run.run_id for run in behind], "up to it, and not beyond"
    assert last.state is RunState.WAITING


def test_batches_can_be_switched_off() -> None:
    bridge = Harness(batch_max_runs=1)
    executor_id = bridge.learn(2**-10)
    runs = backlog(bridge, 3)
    bridge.step()
    assert bridge.batch(executor_id) == [runs[0].run_id]


def test_idle_executors_share_a_short_backlog() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 16 * 1024)]})
    first = [bridge.submit(), bridge.submit()]
    bridge.step()
    bridge.cluster.start_all()
    bridge.step()
    executors = [str(run.executor_id) for run in first]
    bridge.know(first[0], 2**-10)
    for executor_id in executors:
        bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.step()
    backlog(bridge, 6)
    bridge.step()
    assert sorted(len(bridge.batch(executor_id)) for executor_id in executors) == [3, 3]


def test_an_executor_takes_no_more_than_it_may_still_run() -> None:
    bridge = Harness(limits=ExecutorLimits(max_runs=3))
    executor_id = bridge.learn(2**-10)
    backlog(bridge, 5)
    bridge.step()
    assert len(bridge.batch(executor_id)) == 2


def test_the_most_urgent_go_first() -> None:
    bridge = Harness()
    executor_id = bridge.learn(2**-10)
    low, high = backlog(bridge, 2), bridge.submit(priority=9, batchable=True)
    bridge.step()
    assert bridge.batch(executor_id) == [high.run_id, *(run.run_id for run in low)]


def test_what_is_not_wanted_or_can_not_be_handed_over_is_left_out_alone() -> None:
    bridge = Harness()
    executor_id = bridge.learn(2**-10)
    runs = backlog(bridge, 4)
    port(runs[0]).is_wanted = False
    port(runs[2]).payload_error = ValueError("can't be pickled")
    bridge.step()
    assert bridge.batch(executor_id) == [runs[1].run_id, runs[3].run_id]
    assert runs[0].state is RunState.ENDED
    assert port(runs[2]).told == [("refused", "can't be pickled")]


def test_a_begin_that_can_not_be_told_spares_the_others() -> None:
    bridge = Harness()
    executor_id = bridge.learn(2**-10)
    runs = backlog(bridge, 3)
    port(runs[0]).begun_error = RuntimeError("a receiver of a signal")
    bridge.step()
    for _ in runs:
        bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.step()
    assert [port(run).words for run in runs] == [["begun", "succeeded"]] * 3


def test_a_failed_run_fails_alone_and_each_run_has_its_own_time() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 3)
    bridge.recorder.take()
    for index, seconds in enumerate((0.002, 0.004, 0.006)):
        bridge.cluster.finish(executor_id, "einfo", failed=index == 1, seconds=seconds)
    bridge.step()
    assert [port(run).words[-1] for run in runs] == ["succeeded", "failed", "succeeded"]
    records = [json.loads(fact.stored("b", "h").document) for fact in bridge.recorder.take().facts]
    assert [record["run_s"] for record in records] == [0.002, 0.004, 0.006]


def test_a_crash_is_the_fault_of_the_run_that_was_under_way() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 8 * 1024)]})
    executor_id, runs = batched(bridge, 4)
    done, unstored, culprit, unbegun = runs
    bridge.cluster.finish(executor_id, seconds=2**-10)
    progress = Progress(culprit.run_id, (unstored.run_id,))
    bridge.cluster.end(executor_id, detail="SIGKILL", progress=progress)
    bridge.step()
    assert port(done).words == ["begun", "succeeded"]
    assert port(culprit).words == ["begun", "lost"]
    assert port(unstored).words == port(unbegun).words == ["begun", "not_begun"]
    assert (unstored.alone, unbegun.alone) == (True, False)
    bridge.advance(1.0)
    second = bridge.begin(unstored)
    assert bridge.batch(second) == [unstored.run_id], "what may have run runs alone"
    bridge.cluster.finish(second, seconds=2**-10)
    bridge.step()
    assert bridge.batch(second) == [unbegun.run_id]


def test_where_it_is_not_known_how_far_it_was_all_run_alone_and_uncounted() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 3)
    bridge.cluster.end(executor_id)
    bridge.step()
    assert [port(run).words for run in runs] == [["begun", "not_begun"]] * 3
    assert all(run.alone for run in runs)
    bridge.advance(1.0)
    executor_id = bridge.begin(runs[0])
    assert bridge.batch(executor_id) == [runs[0].run_id]
    bridge.cluster.end(executor_id, progress=Progress())
    bridge.step()
    assert port(runs[0]).words[-1] == "lost", "alone it is the one; an older journal says nothing of it"


def test_the_last_of_a_batch_that_had_not_begun_is_not_blamed() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 2)
    bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.cluster.end(executor_id, progress=Progress())
    bridge.step()
    assert port(runs[1]).words == ["begun", "not_begun"]
    assert runs[1].alone is False


def test_terminate_ends_that_run_and_the_others_run_again() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 3)
    assert runs[1].key is not None
    bridge.dispatcher.terminate(runs[1].key, 10, deadly=False)
    assert bridge.cluster.executors[executor_id].signals == [], "it would reach another one"
    bridge.dispatcher.terminate(runs[1].key, 15, deadly=True)
    assert executor_id not in bridge.cluster.executors
    bridge.step()
    assert port(runs[1]).words == ["begun"]
    assert [port(run).words for run in (runs[0], runs[2])] == [["begun", "not_begun"]] * 2
    states = {fact.task_id: fact.state for fact in bridge.recorder.take().facts}
    assert states[runs[1].task_id] is TaskState.REVOKED
    bridge.advance(1.0)
    assert bridge.begin(runs[0]) != executor_id


def test_by_order_nobody_is_blamed_not_even_the_run_under_way() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 3)
    executor = bridge.dispatcher.fleet.executors.get(executor_id)
    assert executor is not None
    assert runs[2].key is not None
    bridge.dispatcher.runs.finish(runs[2], TaskState.REVOKED)
    bridge.dispatcher.fleet.stop(executor)
    bridge.cluster.end(executor_id, progress=Progress(running=runs[0].run_id))
    bridge.step()
    assert port(runs[0]).words == port(runs[1]).words == ["begun", "not_begun"]
    assert (runs[0].alone, runs[1].alone) == (True, False)


def test_what_an_executor_gives_back_waits_again_uncounted() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 3)
    bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.cluster.give_back(executor_id)
    bridge.step()
    assert [port(run).words for run in runs[1:]] == [["begun", "not_begun", "begun"]] * 2, (
        "and begins at once"
    )
    assert bridge.batch(executor_id) == [run.run_id for run in runs[1:]]
    assert bridge.recorder.take().running_tasks[0].count == 2


def test_during_shutdown_what_comes_back_goes_back() -> None:
    bridge = Harness()
    executor_id, runs = batched(bridge, 2)
    bridge.dispatcher.close()
    bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.cluster.give_back(executor_id)
    bridge.step()
    assert port(runs[0]).words == ["begun", "succeeded"]
    assert port(runs[1]).words == ["begun", "not_begun", "give_back"]
    assert not len(bridge.dispatcher.running)


def test_keys_tell_the_runs_of_a_batch_apart() -> None:
    bridge = Harness()
    _, runs = batched(bridge, 5)
    assert len({run.key for run in runs}) == 5
