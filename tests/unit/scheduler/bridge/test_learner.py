"""A bridge on a fake cluster: what it notes of its runs, and what it makes of requests and executors by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.cluster import EndCause, NodeRead
from celeray.scheduler.learned.figures import Observed
from celeray.scheduler.learned.histogram import Summary, bucket, summarize
from celeray.scheduler.learned.store import Noted, Series
from celeray.scheduler.model import Attribution, Basis, DeviceProcess, ResourceRequest
from celeray.scheduler.states import ExecutorState
from tests.unit.scheduler.bridge.harness import GIB, Harness

NAME = "film.generate"
ASKED = ResourceRequest(gpus=1, memory_mib=8 * GIB, basis=Basis.LEARNED)
SERIES = Series(NAME, "A100")


def know(harness: Harness, p95_mib: int, runs: int = 10) -> None:
    """As if the bridges had noted so much."""
    observed = Observed("A100", Summary(runs, p95_mib, p95_mib, p95_mib), 8 * GIB, 24 * GIB)
    harness.dispatcher.learner.observed = {NAME: (observed,)}


def submit(harness: Harness) -> Run:
    """A message that asks by what was learned arrives."""
    placed = harness.dispatcher.learner.resolve(NAME, ASKED)
    run = harness.submit(request=placed)
    run.facts.request = ASKED
    return run


def run_once(harness: Harness, peak_mib: int | None = None, **end: object) -> Run:
    run = submit(harness)
    harness.step()
    executor_id = run.executor_id or harness.begin(run)
    harness.cluster.finish(executor_id, peak_mib=peak_mib, **end)  # type: ignore[arg-type]
    harness.step()
    return run


def noted(harness: Harness) -> Mapping[Series, Noted]:
    return harness.dispatcher.learner.take()


def test_peaks_of_runs_that_succeeded_are_noted_by_task_and_model() -> None:
    harness = Harness()
    first = run_once(harness, 5 * GIB)
    run_once(harness, 5 * GIB)
    run_once(harness, 3000)
    run_once(harness)
    run_once(harness, 7 * GIB, failed=True)
    assert noted(harness) == {SERIES: Noted({5 * GIB: 2, bucket(3000): 1}, 8 * GIB, 24 * GIB)}
    assert noted(harness) == {}
    assert first.peak_mib == 5 * GIB
    record = first.facts.stored("b1", "gpu@host").document
    assert '"peak_mib":5120' in record
    assert '"peak_attribution":"pid"' in record
    assert '"reserved_mib":8192' in record


def test_by_reservation_a_peak_counts_only_of_an_executor_that_was_always_alone() -> None:
    harness = Harness()
    by = Attribution.RESERVATION
    assert run_once(harness, 5 * GIB, attribution=by).peak_mib == 5 * GIB
    assert noted(harness)
    neighbour = harness.submit("film.other")
    harness.begin(neighbour)
    assert run_once(harness, 9 * GIB, attribution=by).peak_mib is None
    assert run_once(harness, 4 * GIB, attribution=Attribution.ALLOCATOR).peak_mib == 4 * GIB
    assert noted(harness) == {SERIES: Noted({4 * GIB: 1}, 8 * GIB, 24 * GIB)}


def test_readings_within_a_run_tell_its_peak_where_the_executor_can_not() -> None:
    harness = Harness()
    run = submit(harness)
    executor_id = harness.begin(run)
    fake = harness.cluster.executors[executor_id]

    def read(requested_at: float, *processes: DeviceProcess) -> None:
        reading = harness.cluster.reading("n1", requested_at)
        device = replace(reading.devices[0], processes=processes, used_mib=6 * GIB)
        harness.events.append(NodeRead(replace(reading, devices=(device,), simulated=False)))
        harness.step()

    begun = harness.clock.monotonic()
    read(begun, DeviceProcess(fake.pid, 7 * GIB))
    executor = harness.dispatcher.fleet.executors.get(executor_id)
    assert executor is not None
    assert executor.seen_mib is None, "it may have begun before the run"
    harness.clock.advance(1.0)
    child = DeviceProcess(99, 2 * GIB, parents=(fake.pid, 1))
    read(begun + 0.5, DeviceProcess(fake.pid, 3 * GIB), child, DeviceProcess(7, 9 * GIB))
    read(begun + 0.9, DeviceProcess(fake.pid, 1 * GIB))
    harness.cluster.end(executor_id, EndCause.DIED)
    harness.step()
    assert run.peak_mib == 5 * GIB
    assert noted(harness) == {}, "it did not succeed"


def test_a_request_by_what_was_learned_is_as_declared_until_enough_is_known() -> None:
    harness = Harness()
    resolve = harness.dispatcher.learner.resolve
    assert resolve(NAME, ASKED) == ASKED
    know(harness, 5 * GIB, runs=9)
    assert resolve(NAME, ASKED) == ASKED
    know(harness, 5 * GIB)
    assert resolve(NAME, ASKED) == replace(ASKED, memory_mib=5632)
    assert resolve("film.other", ASKED) == ASKED
    declared = replace(ASKED, basis=Basis.DECLARED)
    assert resolve(NAME, declared) is declared
    know(harness, 5 * GIB - 300)
    assert resolve(NAME, ASKED).memory_mib == 5632, "a little less is no reason"
    harness.dispatcher.learner.observed = {}
    assert resolve(NAME, ASKED) == ASKED, "reset"


def test_the_class_of_executors_does_not_name_the_figure() -> None:
    classes = {executor_class(NAME, replace(ASKED, memory_mib=mib)) for mib in (5632, 8192)}
    assert len(classes) == 1
    assert next(iter(classes)).startswith(f"{NAME}@1xlearned#")
    others = [replace(ASKED, gpu_types=("A100",)), replace(ASKED, basis=Basis.DECLARED)]
    assert classes.isdisjoint(executor_class(NAME, other) for other in others)


def test_a_warm_executor_with_enough_room_is_used_and_one_with_too_little_is_not() -> None:
    harness = Harness()
    know(harness, 5 * GIB)
    first = run_once(harness, 5 * GIB)
    assert first.facts.begin is not None
    warm = first.facts.begin.fields["executor_id"]
    know(harness, 4800)
    again = run_once(harness, 5 * GIB)
    assert again.facts.begin is not None
    assert again.facts.begin.fields["executor_id"] == warm
    know(harness, 7 * GIB)
    larger = submit(harness)
    assert larger.request.memory_mib == 7936
    assert harness.begin(larger) != warm


def test_more_of_them_fit_once_it_is_known_what_they_need() -> None:
    harness = Harness()
    before = [submit(harness) for _ in range(4)]
    harness.begin(before[0])
    assert len(harness.dispatcher.running) == 3, "3 x 8 GiB on 24"
    know(harness, 5 * GIB)
    harness.advance(1.0)
    assert before[3].request.memory_mib == 5632, "what waits asks by it, too"
    for _ in range(3):
        running = next(iter(harness.dispatcher.running))
        assert running.executor_id is not None
        harness.cluster.finish(running.executor_id, peak_mib=5 * GIB)
        harness.step()
        harness.advance(1.0)
        harness.cluster.start_all()
        harness.step()
    rest = [submit(harness) for _ in range(8)]
    harness.advance(1.0)
    harness.cluster.start_all()
    harness.step()
    executors = harness.dispatcher.fleet.executors.alive()
    assert [executor.memory_mib for executor in executors] == [5632] * 4
    assert len(harness.dispatcher.running) == 4
    assert rest


def test_an_executor_that_reserves_much_too_much_is_replaced_after_its_run_and_only_then() -> None:
    harness = Harness()
    run = submit(harness)
    executor = harness.dispatcher.fleet.executors.get(harness.begin(run))
    assert executor is not None
    know(harness, 5 * GIB)
    harness.dispatcher.learner.resolve(NAME, ASKED)
    harness.advance(1.0)
    assert executor.state is ExecutorState.BUSY
    assert executor.recycle
    harness.cluster.finish(executor.executor_id)
    harness.step()
    assert executor.state in (ExecutorState.ENDING, ExecutorState.RECLAIMING)


def test_shared_and_exclusive_executors_keep_their_size() -> None:
    for request in (replace(ASKED, executor="diffusion"), replace(ASKED, exclusive=True)):
        harness = Harness()
        run = harness.submit(request=request)
        run.facts.request = request
        executor_id = harness.begin(run)
        harness.cluster.finish(executor_id)
        know(harness, 3 * GIB)
        harness.dispatcher.learner.resolve(NAME, request)
        harness.advance(1.0)
        executor = harness.dispatcher.fleet.executors.get(executor_id)
        assert executor is not None
        assert executor.state is ExecutorState.IDLE


def test_a_run_that_ran_out_of_memory_needs_what_it_had_at_least_and_is_not_lowered() -> None:
    harness = Harness()
    know(harness, 4 * GIB)
    run = submit(harness)
    assert run.request.memory_mib == 4608
    executor_id = harness.begin(run)
    harness.cluster.run_out(executor_id)
    harness.step()
    assert noted(harness) == {SERIES: Noted({4608: 1}, 8 * GIB, 24 * GIB)}
    raised = run.request.memory_mib
    assert raised is not None
    assert raised > 4608
    harness.cluster.down()
    harness.step()
    harness.advance(1.0)
    assert run.request.memory_mib == raised


def test_after_a_run_that_ran_out_the_next_one_asks_by_what_was_learned() -> None:
    harness = Harness({"n1": [("GPU-a", "A100", 80 * GIB)]}, learned_runs_min=1)
    run = submit(harness)
    asked = []
    for _ in range(2):
        asked.append(run.request.memory_mib)
        harness.cluster.run_out(harness.begin(run))
        harness.step()
        harness.advance(1.0)
    executor_id = harness.begin(run)
    asked.append(run.request.memory_mib)
    harness.cluster.finish(executor_id, peak_mib=14 * GIB)
    harness.step()
    assert asked == [8 * GIB, 12 * GIB, 18 * GIB]
    counts = noted(harness)[SERIES].counts
    assert counts == {8 * GIB: 1, 12 * GIB: 1, 14 * GIB: 1}
    summary = summarize(counts)
    assert summary is not None
    harness.dispatcher.learner.observed = {NAME: (Observed("A100", summary, 8 * GIB, 80 * GIB),)}
    assert submit(harness).request.memory_mib == 15872, "14 GiB and a tenth, in steps of 256 MiB"


def test_the_largest_peak_of_a_task_is_that_of_any_model() -> None:
    learner = Harness().dispatcher.learner
    assert learner.peak_mib(NAME) is None
    learner.observed = {
        NAME: tuple(
            Observed(model, Summary(1, mib, mib, mib), None, None) for model, mib in (("a", 5), ("b", 9))
        )
    }
    assert learner.peak_mib(NAME) == 9
