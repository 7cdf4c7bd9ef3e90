"""The recorder: each run's facts in the order in which they change, what is counted, and what is left out."""

from __future__ import annotations

import pytest

from celeray.scheduler.bridge.recorder import OOM, Begin, Recorder, TaskFacts
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.status import DETAIL_MAX_CHARS, StoredRecord, TaskRecord, TaskState

REQUEST = ResourceRequest(gpus=1, memory_mib=12288)
BEGIN = Begin(
    node_id="n1",
    node_name="node-1",
    device_uuids=("GPU-a",),
    executor_id="e1",
    executor_class="film.generate",
    warm=True,
)


def received(recorder: Recorder, task_id: str = "t1", at: float = 100.0) -> TaskFacts:
    return recorder.received(task_id, "film.generate", "gpu.generation", 7, REQUEST, at)


def stored(facts: TaskFacts) -> TaskRecord:
    return TaskRecord.model_validate_json(facts.stored("b1", "gpu@host").document)


def test_a_run_is_told_as_it_goes() -> None:
    recorder = Recorder()
    facts = received(recorder)
    waiting = recorder.take().facts
    recorder.started(facts, BEGIN, 102.5)
    running = recorder.take().facts
    recorder.ended(facts, TaskState.SUCCEEDED, 106.0)
    ended = recorder.take().facts

    assert [stored(item).state for item in (*waiting, *running, *ended)] == [
        "waiting",
        "running",
        "succeeded",
    ]
    assert stored(running[0]).wait_s == 2.5
    last = stored(ended[0])
    assert (last.run_s, last.executor_id, last.node_name, last.warm) == (3.5, "e1", "node-1", True)
    assert (last.priority, last.gpus, last.vram_mib) == (7, 1, 12288)
    assert recorder.take().facts == []


def test_what_was_handed_out_does_not_change_afterwards() -> None:
    recorder = Recorder()
    facts = received(recorder)
    taken = recorder.take().facts[0]
    recorder.started(facts, BEGIN, 101.0)
    assert stored(taken).state == "waiting"


def test_a_run_that_changed_twice_is_handed_out_once() -> None:
    recorder = Recorder()
    facts = received(recorder)
    recorder.started(facts, BEGIN, 101.0)
    recorder.ended(facts, TaskState.FAILED, 102.0, reason="died", detail="signal 9")
    taken = recorder.take().facts
    assert [(item.state, item.reason, item.detail) for item in taken] == [("failed", "died", "signal 9")]


def test_the_stored_form_is_that_of_the_model() -> None:
    recorder = Recorder()
    facts = received(recorder)
    recorder.started(facts, BEGIN, 102.5)
    recorder.ended(facts, TaskState.TIMEOUT, 106.25, reason="hard", detail="x" * 5000)
    mine = facts.stored("b1", "gpu@host")
    record = stored(facts)
    assert record.detail == "x" * DETAIL_MAX_CHARS
    again = record.stored()
    assert mine[:3] == again[:3] == StoredRecord("t1", 106.25, True, "")[:3]
    assert TaskRecord.model_validate_json(again.document) == record


def test_counters_and_histograms() -> None:
    recorder = Recorder()
    for number, state in enumerate((TaskState.SUCCEEDED, TaskState.SUCCEEDED, TaskState.FAILED)):
        facts = received(recorder, f"t{number}")
        recorder.started(facts, BEGIN, 100.2)
        recorder.ended(facts, state, 103.2, outcome=OOM if state is TaskState.FAILED else None)
    counters = recorder.take().counters
    assert {item.outcome: item.count for item in counters.finished} == {"succeeded": 2, "oom": 1}
    (placement,), (execution,) = counters.placement, counters.execution
    assert placement.counts[placement.bounds.index(0.25)] == 3
    assert placement.sum == pytest.approx(0.6)
    assert execution.counts[execution.bounds.index(5.0)] == 3


def test_a_clock_set_back_does_not_make_a_sum_shrink() -> None:
    recorder = Recorder()
    facts = received(recorder, at=100.0)
    recorder.started(facts, BEGIN, 90.0)
    recorder.ended(facts, TaskState.SUCCEEDED, 80.0)
    counters = recorder.take().counters
    assert counters.placement[0].sum == counters.execution[0].sum == 0.0
    assert stored(facts).wait_s == stored(facts).run_s == 0.0


def test_running_tasks_are_those_that_began_and_did_not_end() -> None:
    recorder = Recorder()
    first, second, third, fourth = (received(recorder, f"t{number}") for number in range(4))
    for facts in (first, second, third):
        recorder.started(facts, BEGIN, 101.0)
    recorder.ended(first, TaskState.SUCCEEDED, 102.0)
    recorder.given_back(second, 102.0)
    recorder.given_back(fourth, 102.0)
    (running,) = recorder.take().running_tasks
    assert (running.queue, running.name, running.count) == ("gpu.generation", "film.generate", 1)
    recorder.waits_again(third)
    taken = recorder.take()
    assert taken.running_tasks == ()
    assert stored(taken.facts[0]).state == "waiting"
    assert stored(taken.facts[0]).executor_id is None
    recorder.waits_again(third)


def test_a_message_given_back_counts_as_nothing_finished() -> None:
    recorder = Recorder()
    facts = received(recorder)
    recorder.given_back(facts, 101.0)
    taken = recorder.take()
    assert taken.counters.finished == ()
    assert (stored(taken.facts[0]).state, stored(taken.facts[0]).reason) == ("lost", "given_back")


def test_of_many_runs_that_just_succeeded_the_newest_are_handed_out_and_all_counted() -> None:
    recorder = Recorder(uneventful_max=2)
    shown = received(recorder, "shown")
    recorder.take()
    for number in range(5):
        facts = received(recorder, f"t{number}")
        recorder.started(facts, BEGIN, 101.0)
        recorder.ended(facts, TaskState.SUCCEEDED, 102.0)
    failed = received(recorder, "failed")
    recorder.ended(failed, TaskState.REJECTED, 102.0)
    # Its record in Redis says that it waits: leaving it out would leave it so.
    recorder.started(shown, BEGIN, 101.0)
    recorder.ended(shown, TaskState.SUCCEEDED, 102.0)
    taken = recorder.take()
    assert [facts.task_id for facts in taken.facts] == ["t3", "t4", "failed", "shown"]
    assert taken.skipped == 3
    assert sum(item.count for item in taken.counters.finished) == 7
