"""A run is put back for an urgent task: killed first, given back uncounted, and run again to its end."""

from __future__ import annotations

import json
import logging

import pytest

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.cluster import EndCause
from celeray.scheduler.model import Isolation, Reason, ResourceRequest
from celeray.scheduler.states import ExecutorState, RunState
from celeray.scheduler.status import TaskState

from .harness import GIB, Harness, port


def bridge_with(**settings: object) -> Harness:
    """One device of 24 GiB."""
    return Harness(**{"preemption": True, **settings})  # type: ignore[arg-type]


def running(bridge: Harness, name: str = "film.long", gib: int = 20, **options: object) -> Run:
    """A run that may be put back and has begun."""
    run = bridge.submit(name, gib, **{"preemptible": True, **options})  # type: ignore[arg-type]
    bridge.begin(run)
    bridge.advance(5.0)
    return run


def urgent_of(bridge: Harness, gib: int = 20, priority: int = 9, name: str = "film.urgent") -> Run:
    run = bridge.submit(name, gib, priority=priority)
    bridge.step()
    return run


def put_back(bridge: Harness) -> tuple[Run, Run]:
    """A run that was put back, and the urgent one that waits for its room."""
    run = running(bridge)
    urgent = urgent_of(bridge)
    bridge.step()
    assert run.state is RunState.ENDED
    return run, urgent


def test_the_urgent_task_gets_the_room() -> None:
    bridge = bridge_with()
    run, urgent = put_back(bridge)
    assert port(run).told == [("begun", port(run).told[0][1]), ("not_begun",), ("put_back", urgent.task_id)]
    assert urgent.reason is Reason.RECLAIMING
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert port(urgent).words == ["begun"]


def test_the_process_is_dead_before_its_message_goes_back() -> None:
    bridge = bridge_with()
    run = running(bridge)
    executor_id = run.executor_id
    assert executor_id is not None
    bridge.submit("film.urgent", 20, priority=10)
    bridge.dispatcher.cycle()
    assert bridge.dispatcher.fleet.executors.get(executor_id).state is ExecutorState.ENDING  # type: ignore[union-attr]
    assert executor_id not in bridge.cluster.executors, "killed, not asked to end after its run"
    assert run.state is RunState.RUNNING
    assert port(run).words == ["begun"]
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "put_back"]


def test_a_run_that_ends_in_the_same_moment_is_done() -> None:
    bridge = bridge_with()
    run = running(bridge)
    executor_id = run.executor_id
    assert executor_id is not None
    bridge.cluster.finish(executor_id)
    urgent = bridge.submit("film.urgent", 20, priority=10)
    # The bridge decides before it has seen the end.
    bridge.dispatcher.cycle()
    assert run.ended_for == urgent.task_id
    bridge.step()
    assert port(run).words == ["begun", "succeeded"]
    assert run.facts.state is TaskState.SUCCEEDED
    assert preemptions(bridge) == 0
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert port(urgent).words == ["begun"]


def preemptions(bridge: Harness) -> int:
    return sum(item.count for item in bridge.recorder.take().counters.preempted)


def test_it_runs_again_to_its_end_and_is_not_put_back_a_second_time() -> None:
    bridge = bridge_with()
    _, urgent = put_back(bridge)
    bridge.advance(1.0)
    executor_id = bridge.begin(urgent)
    # As intake takes the message that was put back.
    again = bridge.submit("film.long", 20, preemptible=False)
    bridge.step()
    assert again.state is RunState.WAITING
    bridge.cluster.finish(executor_id)
    bridge.advance(1.0)
    bridge.advance(1.0)
    second = bridge.begin(again)
    another = urgent_of(bridge, priority=10, name="film.other")
    bridge.advance(1.0)
    assert (again.state, another.reason) == (RunState.RUNNING, Reason.VRAM)
    bridge.cluster.finish(second)
    bridge.advance(1.0)
    bridge.advance(1.0)
    bridge.begin(another)
    assert port(again).words == ["begun", "succeeded"]


@pytest.mark.parametrize(
    ("settings", "options", "priority"),
    [
        ({"preemption": False}, {}, 10),
        ({}, {"preemptible": False}, 10),
        ({}, {"priority": 9}, 10),
        ({}, {}, 8),
    ],
    ids=["off", "not preemptible", "urgent itself", "for one that is not urgent"],
)
def test_nothing_is_put_back_else(
    settings: dict[str, object], options: dict[str, object], priority: int
) -> None:
    bridge = bridge_with(**settings)
    run = running(bridge, **options)
    urgent = urgent_of(bridge, priority=priority)
    bridge.advance(1.0)
    assert run.state is RunState.RUNNING
    assert urgent.reason is Reason.VRAM


def test_off_is_the_default() -> None:
    assert not Harness().dispatcher.policy.order.preempt


def test_nothing_more_is_ended_while_the_room_comes_back() -> None:
    bridge = bridge_with(nodes={"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]})
    first, other = running(bridge, gib=20), running(bridge, gib=21)
    urgent = urgent_of(bridge)
    for _ in range(5):
        bridge.dispatcher.dirty = True
        bridge.step()
    ended = [run for run in (first, other) if run.state is RunState.ENDED]
    assert len(ended) == 1
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert sum(run.state is RunState.RUNNING for run in (first, other)) == 1


def test_nor_where_the_urgent_task_waits_for_cpus() -> None:
    bridge = bridge_with(nodes={f"n{n}": [(f"GPU-{n}", "A100", 24 * GIB)] for n in (1, 2)})
    asks = ResourceRequest(gpus=1, memory_mib=4 * GIB, cpus_milli=8000)
    runs = [running(bridge, request=asks) for _ in range(2)]
    urgent = bridge.submit("film.urgent", request=asks, priority=10)
    for _ in range(3):
        # The end of the executor is not known yet, so its CPUs are booked.
        bridge.dispatcher.dirty = True
        bridge.dispatcher.cycle()
    assert [run.ended_for for run in runs].count(urgent.task_id) == 1
    assert urgent.reason is Reason.RECLAIMING
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert sum(run.state is RunState.RUNNING for run in runs) == 1


def test_the_run_that_began_last_is_ended() -> None:
    bridge = bridge_with(nodes={"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]})
    older, younger = running(bridge, gib=20), running(bridge, gib=20, name="film.other")
    urgent_of(bridge)
    bridge.step()
    assert (older.state, younger.state) == (RunState.RUNNING, RunState.ENDED)


def test_two_urgent_tasks_have_two_ended() -> None:
    bridge = bridge_with(nodes={"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]})
    runs = [running(bridge), running(bridge)]
    urgent = [bridge.submit("film.urgent", 20, priority=9) for _ in range(2)]
    for _ in range(3):
        bridge.step()
    assert [run.state for run in runs] == [RunState.ENDED] * 2
    bridge.advance(1.0)
    bridge.begin(urgent[0])
    assert [run.state for run in urgent] == [RunState.RUNNING] * 2


@pytest.mark.parametrize("turned", [False, True])
def test_those_that_end_for_one_task_go_back_in_their_order_however_they_die(turned: bool) -> None:
    """Each goes to the front of its list, so the one that came first has to go last."""
    bridge = bridge_with(nodes={"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]})
    first, second = running(bridge), running(bridge)
    bridge.submit("film.gang", request=ResourceRequest(gpus=2, memory_mib=20 * GIB), priority=9)
    bridge.dispatcher.cycle()
    one, other = reversed(bridge.events) if turned else bridge.events
    bridge.events.clear()
    bridge.dispatcher.handle(one)
    assert [run.state for run in (first, second)] == [RunState.RUNNING] * 2, "the other one ends yet"
    back: list[Run] = []
    for run in (first, second):
        port(run).put_back = lambda _, run=run: back.append(run)  # type: ignore[method-assign, misc]
    bridge.dispatcher.handle(other)
    assert back == [second, first]


def test_the_room_is_not_given_to_what_has_grown_old() -> None:
    bridge = bridge_with(nodes={"n1": [("GPU-a", "A100", 24 * GIB)]}, priority_aging_s=1.0)
    run = bridge.submit("film.long", 20, preemptible=True)
    bridge.begin(run)
    old = bridge.submit("film.old", 20, priority=1)
    bridge.advance(100.0)
    urgent = urgent_of(bridge)
    bridge.step()
    assert run.state is RunState.ENDED
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert (old.state, urgent.state) == (RunState.WAITING, RunState.RUNNING)


def test_many_of_its_like_that_have_grown_old_do_not_hide_it() -> None:
    bridge = bridge_with(priority_aging_s=1.0)
    run = running(bridge, "film.alike")
    old = [bridge.submit("film.alike", 20, priority=1) for _ in range(20)]
    bridge.advance(100.0)
    urgent = urgent_of(bridge, name="film.alike")
    bridge.step()
    assert run.state is RunState.ENDED
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert (urgent.state, {each.state for each in old}) == (RunState.RUNNING, {RunState.WAITING})


def test_nor_the_second_urgent_one() -> None:
    bridge = bridge_with(
        nodes={"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]}, priority_aging_s=1.0
    )
    runs = [running(bridge, "film.alike") for _ in range(2)]
    for _ in range(20):
        bridge.submit("film.alike", 20, priority=1)
    bridge.advance(100.0)
    urgent = [bridge.submit("film.alike", 20, priority=9) for _ in range(2)]
    for _ in range(3):
        bridge.step()
    assert [run.state for run in runs] == [RunState.ENDED] * 2
    bridge.advance(1.0)
    bridge.begin(urgent[0])
    assert [run.state for run in urgent] == [RunState.RUNNING] * 2


def test_the_hard_limit_says_nothing_of_a_run_that_is_being_ended() -> None:
    bridge = bridge_with()
    run = running(bridge, hard=60.0)
    urgent = bridge.submit("film.urgent", 20, priority=9)
    bridge.dispatcher.cycle()
    bridge.clock.advance(100.0)
    bridge.dispatcher.run_due()
    assert "hard_limit" not in port(run).words
    bridge.step()
    assert port(run).told[-1] == ("put_back", urgent.task_id)


def test_a_revoke_goes_before() -> None:
    bridge = bridge_with()
    run = running(bridge)
    bridge.submit("film.urgent", 20, priority=9)
    bridge.dispatcher.cycle()
    assert run.key is not None
    bridge.dispatcher.terminate(run.key, 15, deadly=True)
    bridge.step()
    assert port(run).words == ["begun"], "Celery's request has told the rest"
    assert run.facts.state is TaskState.REVOKED


def test_a_lost_lease_goes_before() -> None:
    bridge = bridge_with()
    run = running(bridge)
    bridge.submit("film.urgent", 20, priority=9)
    bridge.dispatcher.cycle()
    bridge.dispatcher.lease_lost(run)
    bridge.step()
    assert port(run).words == ["begun", "lease_lost"]


def test_a_node_that_is_lost_meanwhile_took_the_process_along() -> None:
    bridge = bridge_with()
    run = running(bridge)
    bridge.submit("film.urgent", 20, priority=9)
    bridge.dispatcher.cycle()
    bridge.events.clear()
    bridge.cluster.down()
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "put_back"]


def test_what_ran_out_of_gpu_memory_is_left_alone() -> None:
    """Elsewhere it would begin anew with too little."""
    bridge = bridge_with()
    run = bridge.submit("film.long", 8, preemptible=True)
    executor_id = bridge.begin(run)
    bridge.cluster.run_out(executor_id)
    bridge.advance(5.0)
    bridge.begin(run)
    bridge.advance(5.0)
    assert run.ran_out == 1
    urgent = urgent_of(bridge)
    assert run.state is RunState.RUNNING
    assert urgent.reason is Reason.VRAM


def test_a_run_of_a_batch_is_left_alone() -> None:
    bridge = bridge_with()
    executor_id = bridge.learn(0.001, gib=20)
    runs = [bridge.submit("film.generate", 20, batchable=True, preemptible=True) for _ in range(3)]
    for run in runs:
        bridge.know(run, 0.001)
    bridge.step()
    assert len(bridge.batch(executor_id)) == 3
    urgent_of(bridge)
    bridge.step()
    assert [run.state for run in runs] == [RunState.RUNNING] * 3


def test_a_fresh_process_is_put_back_as_well() -> None:
    bridge = bridge_with()
    request = ResourceRequest(gpus=1, memory_mib=20 * GIB, isolation=Isolation.FRESH)
    run = bridge.submit("film.fresh", request=request, preemptible=True)
    bridge.step()
    assert run.executor_id is not None
    bridge.cluster.begin(run.executor_id)
    bridge.advance(5.0)
    urgent_of(bridge)
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "put_back"]


def test_it_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    bridge = bridge_with()
    with caplog.at_level(logging.INFO, logger="celeray"):
        run, urgent = put_back(bridge)
    (told,) = [r.getMessage() for r in caplog.records if "put back" in r.getMessage()]
    assert run.task_id in told
    assert urgent.task_id in told
    taken = bridge.recorder.take()
    (count,) = taken.counters.preempted
    assert (count.queue, count.name, count.count) == ("gpu.generation", "film.long", 1)
    assert all(item.name != "film.long" for item in taken.counters.finished), "no run has finished"
    assert not any(item.name == "film.long" for item in taken.running_tasks)
    (facts,) = [facts for facts in taken.facts if facts.task_id == run.task_id]
    record = json.loads(facts.stored("b", "h").document)
    assert (record["state"], record["reason"]) == ("lost", "preempted")
    assert record["preempted"]["for_task"] == urgent.task_id
    assert urgent.task_id in record["detail"]


def test_a_bridge_that_closes_gives_it_back_all_the_same() -> None:
    bridge = bridge_with()
    run = running(bridge)
    urgent = bridge.submit("film.urgent", 20, priority=9)
    bridge.dispatcher.cycle()
    bridge.dispatcher.close()
    bridge.step()
    assert port(run).words == ["begun", "not_begun", "put_back"]
    assert port(urgent).words == ["give_back"]
    assert not len(bridge.dispatcher.running)


def test_an_executor_that_ends_otherwise_is_no_preemption() -> None:
    bridge = bridge_with()
    run = running(bridge)
    assert run.executor_id is not None
    bridge.cluster.end(run.executor_id, EndCause.DIED)
    bridge.step()
    assert port(run).words == ["begun", "lost"]
