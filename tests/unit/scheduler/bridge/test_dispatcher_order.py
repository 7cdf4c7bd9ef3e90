"""Which waiting run begins first, and what is kept for whom."""

from __future__ import annotations

from celeray.scheduler.bridge.expected import RUNS_MIN
from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.states import RunState

from .harness import GIB, Harness

GANG = ResourceRequest(gpus=2, memory_mib=24 * GIB)
TWO = {"n1": [("GPU-a", "A100", 24 * GIB), ("GPU-b", "A100", 24 * GIB)]}


def test_what_waited_for_long_comes_before_what_is_a_little_more_urgent() -> None:
    bridge = Harness(priority_aging_s=60)
    busy = bridge.submit(gib=24)
    executor = bridge.begin(busy)
    old = bridge.submit(gib=24, priority=5)
    bridge.advance(121)
    urgent = bridge.submit(gib=24, priority=10)
    young = bridge.submit(gib=24, priority=7)
    order = []
    for _ in range(3):
        bridge.cluster.finish(executor, seconds=1.0)
        bridge.step()
        order.append(next(run for run in (old, urgent, young) if run.state is RunState.RUNNING))
    assert order == [urgent, old, young]


def test_room_is_kept_for_a_gang_until_what_runs_has_ended() -> None:
    bridge = Harness(TWO)
    for _ in range(RUNS_MIN):
        bridge.dispatcher.times.expected.learn("film.short", 2.0)
    first = bridge.submit("film.long", gib=24)
    executor = bridge.begin(first)
    gang = bridge.submit("film.gang", request=GANG)
    unknown = bridge.submit("film.unknown", gib=24)
    bridge.step()
    assert (gang.reason, unknown.reason) == (Reason.VRAM, Reason.RESERVED)
    kept = bridge.dispatcher.reserved
    assert kept is not None
    assert (kept.sequence, set(kept.device_uuids)) == (gang.task.sequence, {"GPU-a", "GPU-b"})
    short = bridge.submit("film.short", gib=24)
    bridge.step()
    assert short.reason is Reason.STARTING, "two seconds are over before an hour is"
    bridge.cluster.start_all()
    bridge.step()
    assert short.state is RunState.RUNNING
    bridge.cluster.finish(executor, seconds=1.0)
    assert short.executor_id is not None
    bridge.cluster.finish(short.executor_id, seconds=2.0)
    bridge.advance(2)
    bridge.advance(2)
    bridge.cluster.start_all()
    bridge.step()
    assert gang.state is RunState.RUNNING
    assert unknown.state is RunState.WAITING


def test_without_the_setting_no_room_is_kept() -> None:
    bridge = Harness(TWO, reservation=False)
    bridge.begin(bridge.submit("film.long", gib=24))
    gang = bridge.submit("film.gang", request=GANG)
    unknown = bridge.submit("film.unknown", gib=24)
    bridge.step()
    assert (gang.reason, unknown.reason) == (Reason.VRAM, Reason.STARTING)
    assert bridge.dispatcher.reserved is None


def test_a_run_is_overtaken_at_most_as_often_as_the_setting_says() -> None:
    bridge = Harness(TWO, reservation=False, overtaken_max=3)
    bridge.begin(bridge.submit("film.long", gib=24))
    gang = bridge.submit("film.gang", request=GANG, priority=8)
    ran = 0
    for _ in range(6):
        small = bridge.submit("film.small", gib=24, priority=5)
        bridge.step()
        bridge.cluster.start_all()
        bridge.step()
        if small.state is not RunState.RUNNING:
            break
        ran += 1
        assert small.executor_id is not None
        bridge.cluster.finish(small.executor_id, seconds=1.0)
        bridge.step()
    # The executor's start is the first of them: it takes the room that the gang needs.
    assert ran == 2
    assert small.reason is Reason.RESERVED
    assert gang.state is RunState.WAITING


def test_what_a_run_says_of_its_length_counts_before_what_was_learned() -> None:
    bridge = Harness()
    for _ in range(RUNS_MIN):
        bridge.dispatcher.times.expected.learn("film.generate", 2.0)
    said = bridge.submit(request=ResourceRequest(gpus=1, memory_mib=8 * GIB, expected_ms=500))
    assert said.task.expected_ms == 500
    bridge.begin(said)
    learned = bridge.submit()
    assert learned.task.expected_ms == 2000
    assert said.shape == learned.shape, "it is no part of what they need"
    ends = [
        executor.ends_in_ms
        for executor in bridge.dispatcher.fleet.snapshot(bridge.clock.monotonic()).executors
    ]
    assert ends == [500]
    bridge.clock.advance(1.0)
    ends = [
        executor.ends_in_ms
        for executor in bridge.dispatcher.fleet.snapshot(bridge.clock.monotonic()).executors
    ]
    assert ends == [250], "what is overdue lasts for a quarter more of what it took"
