"""A run that runs out of GPU memory waits for more, with a new executor, and nobody is told of a failure."""

from __future__ import annotations

import json

import pytest

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.window import least_urgent
from celeray.scheduler.cluster import EndCause
from celeray.scheduler.model import Basis, Isolation, OnOom, Reason, ResourceRequest
from celeray.scheduler.states import ExecutorState, RunState
from celeray.scheduler.status import TaskState

from .harness import GIB, Harness, port

LARGE = {"n1": [("GPU-a", "A100", 80 * GIB)]}


def replaced(bridge: Harness, executor_id: str) -> None:
    """The executor that ran out ends, and its memory comes back."""
    bridge.step()
    executor = bridge.dispatcher.fleet.executors.get(executor_id)
    assert executor is None or executor.state is not ExecutorState.IDLE
    bridge.advance(1.0)
    assert bridge.dispatcher.fleet.executors.get(executor_id) is None


def ran_out(bridge: Harness, run: Run) -> str:
    """The run begins, and runs out; returns where."""
    executor_id = run.executor_id or bridge.begin(run)
    bridge.cluster.run_out(executor_id)
    replaced(bridge, executor_id)
    return executor_id


def reserved(bridge: Harness, run: Run) -> int:
    assert run.executor_id is not None
    return bridge.cluster.executors[run.executor_id].spec.memory_mib


def test_it_is_placed_at_half_again_until_it_fits() -> None:
    bridge = Harness(LARGE)
    run, seen = bridge.submit(gib=8), []
    for _ in range(2):
        bridge.begin(run)
        seen.append(reserved(bridge, run))
        ran_out(bridge, run)
    executor_id = bridge.begin(run)
    seen.append(reserved(bridge, run))
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert seen == [8 * GIB, 12 * GIB, 18 * GIB]
    assert port(run).words == ["begun", "not_begun"] * 2 + ["begun", "succeeded"]
    assert run.ran_out == 2
    assert not len(bridge.dispatcher.running)


def test_the_executor_that_ran_out_is_replaced_and_its_room_is_reclaimed() -> None:
    bridge = Harness()
    run = bridge.submit(gib=8)
    executor_id = bridge.begin(run)
    bridge.cluster.executors[executor_id].used_mib = 8 * GIB
    bridge.cluster.run_out(executor_id)
    bridge.step()
    assert executor_id not in bridge.cluster.executors, "told to end"
    assert run.state is RunState.WAITING
    assert bridge.dispatcher.fleet.ledger.reservation(executor_id) is not None, "until NVML shows it back"
    bridge.advance(1.0)
    assert bridge.dispatcher.fleet.ledger.reservation(executor_id) is None
    assert bridge.begin(run) != executor_id


def test_neighbours_go_on() -> None:
    bridge = Harness(LARGE)
    neighbours = [bridge.submit("film.other", 2), bridge.submit("film.other", 2)]
    bridge.begin(neighbours[0])
    run = bridge.submit(gib=8)
    ran_out(bridge, run)
    bridge.begin(run)
    assert [each.state for each in neighbours] == [RunState.RUNNING] * 2
    assert [port(each).words for each in neighbours] == [["begun"]] * 2


def test_the_next_run_waits_for_its_room_like_any_other() -> None:
    bridge = Harness({"n1": [("GPU-a", "A100", 24 * GIB)]})
    neighbour = bridge.submit("film.other", 14)
    executor_id = bridge.begin(neighbour)
    run = bridge.submit(gib=8)
    ran_out(bridge, run)
    bridge.step()
    assert run.state is RunState.WAITING
    assert run.request.memory_mib == 12 * GIB
    assert run.reason is Reason.VRAM
    bridge.cluster.finish(executor_id)
    bridge.advance(1.0)
    bridge.advance(1.0)
    bridge.begin(run)
    assert reserved(bridge, run) == 12 * GIB


def flags(bridge: Harness, run: Run) -> bool:
    """Whether the run's executor was told that the run would be placed again."""
    bridge.begin(run)
    assert run.executor_id is not None
    return bridge.cluster.executors[run.executor_id].runs[0].may_place_again


@pytest.mark.parametrize(
    ("request_", "again"),
    [
        (ResourceRequest(gpus=1, memory_mib=8 * GIB), True),
        (ResourceRequest(gpus=1, memory_mib=8 * GIB, on_oom=OnOom.FAIL), False),
        (ResourceRequest(gpus=1, memory_mib=8 * GIB, memory_mib_max=8 * GIB), False),
        (ResourceRequest(gpus=1, memory_mib=24 * GIB), False),
        (ResourceRequest(gpus=1, exclusive=True), False),
        (ResourceRequest(cpus_milli=1000), False),
    ],
    ids=["usual", "fail", "max", "largest", "whole", "cpu"],
)
def test_an_executor_knows_before_whether_it_ends_there(request_: ResourceRequest, again: bool) -> None:
    bridge = Harness()
    run = bridge.submit(request=request_)
    assert flags(bridge, run) is again
    assert (run.larger is not None) is again


def test_the_last_run_of_the_budget_is_the_tasks_own_failure() -> None:
    bridge = Harness(LARGE, out_of_memory_runs_max=2)
    run = bridge.submit(gib=8)
    assert flags(bridge, run)
    ran_out(bridge, run)
    assert not flags(bridge, run)
    assert run.executor_id is not None
    bridge.cluster.finish(run.executor_id, "out of memory", failed=True)
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "begun", "failed"]


def test_a_whole_device_is_followed_by_a_larger_whole_one() -> None:
    bridge = Harness({"n1": [("GPU-a", "T4", 16 * GIB), ("GPU-b", "A100", 80 * GIB)]})
    blocker = bridge.submit(
        "film.blocker", request=ResourceRequest(gpus=1, exclusive=True, gpu_types=("A100",))
    )
    executor_id = bridge.begin(blocker)
    run = bridge.submit(gib=None)
    bridge.begin(run)
    assert run.larger == ResourceRequest(gpus=1, memory_mib=24 * GIB, exclusive=True)
    ran_out(bridge, run)
    assert run.state is RunState.WAITING
    bridge.cluster.finish(executor_id)
    for _ in range(3):
        bridge.advance(1.0)
    bridge.begin(run)
    assert run.executor_id is not None
    assert bridge.cluster.executors[run.executor_id].spec.device_uuids == ("GPU-b",)
    assert reserved(bridge, run) == 80 * GIB


def test_a_shared_executor_of_the_old_size_does_not_get_it_again() -> None:
    bridge = Harness(LARGE)
    shared = ResourceRequest(gpus=1, memory_mib=8 * GIB, executor="model")
    runs = [bridge.submit(request=shared) for _ in range(2)]
    bridge.begin(runs[0])
    bridge.begin(runs[1])
    first, second = (run.executor_id for run in runs)
    assert first is not None
    assert second is not None
    bridge.cluster.finish(second)
    bridge.cluster.run_out(first)
    replaced(bridge, first)
    assert bridge.begin(runs[0]) not in (first, second)
    assert reserved(bridge, runs[0]) == 12 * GIB


def test_a_request_that_goes_by_what_was_learned_is_raised_all_the_same() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(request=ResourceRequest(gpus=1, memory_mib=8 * GIB, basis=Basis.LEARNED))
    ran_out(bridge, run)
    bridge.begin(run)
    assert reserved(bridge, run) == 12 * GIB


def test_it_is_an_observation_of_what_the_task_needs_at_least() -> None:
    bridge = Harness(LARGE)
    ran_out(bridge, bridge.submit(gib=8))
    ((series, noted),) = bridge.dispatcher.learner.take().items()
    assert series.task == "film.generate"
    assert sum(noted.counts.values()) == 1


def test_so_it_is_where_it_is_the_tasks_failure() -> None:
    bridge = Harness(out_of_memory_runs_max=1)
    run = bridge.submit(gib=8)
    executor_id = bridge.begin(run)
    port(run).ran_out = True
    bridge.cluster.finish(executor_id, "out of memory", failed=True)
    bridge.step()
    ((_, noted),) = bridge.dispatcher.learner.take().items()
    assert sum(noted.counts.values()) == 1
    ((outcome, count),) = [(item.outcome, item.count) for item in bridge.recorder.take().counters.finished]
    assert (outcome, count) == ("oom", 1)


@pytest.mark.parametrize("begun", [True, False])
def test_a_fresh_process_that_ran_out(begun: bool) -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(request=ResourceRequest(gpus=1, memory_mib=8 * GIB, isolation=Isolation.FRESH))
    bridge.step()
    executor_id = run.executor_id
    assert executor_id is not None
    if begun:
        bridge.cluster.begin(executor_id)
        bridge.step()
    bridge.cluster.run_out(executor_id)
    bridge.cluster.end(executor_id, EndCause.STOPPED)
    bridge.step()
    assert port(run).words == (["begun", "not_begun"] if begun else [])
    bridge.advance(1.0)
    assert run.state is RunState.RESERVED
    assert reserved(bridge, run) == 12 * GIB


# In a batch


def test_the_rest_of_a_batch_is_placed_again_as_it_was() -> None:
    bridge = Harness(LARGE)
    executor_id = bridge.learn(2**-10)
    runs = [bridge.submit(batchable=True) for _ in range(4)]
    bridge.step()
    assert bridge.batch(executor_id) == [run.run_id for run in runs]
    bridge.cluster.finish(executor_id, seconds=2**-10)
    bridge.cluster.run_out(executor_id)
    replaced(bridge, executor_id)
    assert [port(run).words for run in runs] == [
        ["begun", "succeeded"],
        ["begun", "not_begun"],
        ["begun", "not_begun"],
        ["begun", "not_begun"],
    ]
    assert [run.request.memory_mib for run in runs[1:]] == [12 * GIB, 8 * GIB, 8 * GIB]
    assert [run.ran_out for run in runs] == [0, 1, 0, 0]
    bridge.begin(runs[2])
    bridge.begin(runs[1])
    assert {run.state for run in runs[1:3]} == {RunState.RUNNING}


# What else may happen meanwhile


def test_what_was_revoked_while_it_waits_for_more_does_not_run_again() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    bridge.cluster.run_out(bridge.begin(run))
    port(run).is_wanted = False
    bridge.advance(1.0)
    assert run.state is RunState.ENDED
    assert port(run).words == ["begun", "not_begun"]


def test_its_time_limit_counts_from_the_new_begin() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8, hard=30.0)
    bridge.begin(run)
    bridge.advance(20.0)
    ran_out(bridge, run)
    bridge.begin(run)
    bridge.advance(20.0)
    assert run.state is RunState.RUNNING
    bridge.advance(11.0)
    assert port(run).words[-1] == "hard_limit"


def test_a_lost_executor_after_it_is_a_lost_run() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    ran_out(bridge, run)
    bridge.cluster.end(bridge.begin(run))
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "begun", "lost"]


def test_a_bridge_that_closes_gives_it_back() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    executor_id = bridge.begin(run)
    bridge.dispatcher.close()
    bridge.cluster.run_out(executor_id)
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "give_back"]


@pytest.mark.parametrize("closed_before", [True, False])
def test_what_was_acknowledged_early_fails_with_the_bridge(closed_before: bool) -> None:
    bridge = Harness({"n1": [("GPU-a", "A100", 24 * GIB)]})
    run = bridge.submit(gib=16)
    run.acknowledges_early = True
    executor_id = bridge.begin(run)
    if closed_before:
        bridge.dispatcher.close()
    bridge.cluster.run_out(executor_id)
    bridge.step()
    bridge.dispatcher.close()
    assert port(run).words[-1] == "refused"
    assert "give_back" not in port(run).words
    assert run.state is RunState.ENDED


def test_what_was_acknowledged_early_and_lost_its_place_fails_with_the_bridge() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(request=ResourceRequest(gpus=1, memory_mib=8 * GIB, isolation=Isolation.FRESH))
    run.acknowledges_early = True
    bridge.step()
    assert run.executor_id is not None
    bridge.cluster.begin(run.executor_id)
    bridge.cluster.run_out(run.executor_id)
    bridge.cluster.end(run.executor_id, EndCause.STOPPED)
    bridge.step()
    assert run.state is RunState.RESERVED
    bridge.dispatcher.cluster.closed = True
    bridge.cluster.end(run.executor_id, EndCause.START_FAILED)
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "refused"]


def test_what_was_acknowledged_early_stays_when_the_connection_or_its_queue_goes() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    run.acknowledges_early = True
    bridge.cluster.run_out(bridge.begin(run))
    while bridge.events:
        bridge.dispatcher.handle(bridge.events.popleft())
    assert run.state is RunState.WAITING
    bridge.dispatcher.give_back_unbegun()
    bridge.dispatcher.give_back_unbegun([run.queue])
    bridge.dispatcher.runs.give_back(run)
    bridge.advance(1.0)
    bridge.begin(run)
    assert run.state is RunState.RUNNING


def test_other_events_of_an_executor_that_is_gone_change_nothing() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    executor_id = bridge.begin(run)
    bridge.cluster.run_out(executor_id)
    late = list(bridge.events)
    bridge.step()
    state = run.state
    for event in late:
        bridge.dispatcher.handle(event)
    assert run.state is state
    assert run.ran_out == 1


def test_it_is_not_swapped_for_something_more_urgent() -> None:
    bridge = Harness()
    runs = [bridge.submit(gib=8), bridge.submit(gib=8)]
    runs[1].ran_out = 1
    assert least_urgent(runs, 2) == [runs[0]]


# What is seen of it


def test_the_record_shows_what_it_asks_now_and_where_it_ran_out() -> None:
    bridge = Harness(LARGE)
    run = bridge.submit(gib=8)
    ran_out(bridge, run)
    record = json.loads(run.facts.stored("b1", "gpu@host").document)
    assert (record["vram_mib"], record["raised_mib"]) == (8 * GIB, 12 * GIB)
    (entry,) = record["out_of_memory"]
    assert (entry["reserved_mib"], entry["node_name"], entry["device_uuids"]) == (8 * GIB, "n1", ["GPU-a"])
    assert record["state"] == TaskState.WAITING
    counters = bridge.recorder.take().counters
    assert [(item.name, item.count) for item in counters.out_of_memory] == [("film.generate", 1)]
    assert not counters.finished


def test_an_executor_on_a_shared_device_is_limited_and_one_on_whole_devices_is_not() -> None:
    bridge = Harness({"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]})
    shared, whole = bridge.submit(gib=8), bridge.submit(gib=None)
    bridge.begin(shared)
    bridge.begin(whole)
    assert shared.executor_id is not None
    assert whole.executor_id is not None
    assert bridge.cluster.executors[shared.executor_id].spec.limit_vram
    assert not bridge.cluster.executors[whole.executor_id].spec.limit_vram
    off = Harness(limit_vram=False)
    run = off.submit(gib=8)
    off.begin(run)
    assert run.executor_id is not None
    assert not off.cluster.executors[run.executor_id].spec.limit_vram
