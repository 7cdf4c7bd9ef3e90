"""The peak of a run: from looks of two threads and an allocator's word, never from another run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType

import pytest

from celeray.actors import peaks
from celeray.actors.allocators import CONTEXT_MIB
from celeray.actors.meters import Use
from celeray.actors.peaks import Peak, PeakWatch
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.model import MIB, Attribution

NEVER_S = 3600.0
DEADLINE_S = 30.0


class ScriptedMeter:
    """Implements `Meter`: says what it is told to."""

    def __init__(self, *now: int | None, attribution: Attribution = Attribution.PID) -> None:
        self.attribution = attribution
        self.now: Use = now
        self.said: Use = (None,) * len(now)
        self.looks = 0
        self.on_look: Callable[[], None] = lambda: None

    def begin(self) -> None: ...

    def used(self) -> Use:
        self.looks += 1
        self.on_look()
        return self.now

    def most(self) -> Use:
        return self.said


class FakeCuda:
    """As much of `torch.cuda` as is asked."""

    def __init__(self, initialized: bool = True) -> None:
        self.initialized = initialized
        self.reserved = 0
        self.most = 0
        self.error: Exception | None = None

    def is_initialized(self) -> bool:
        return self.initialized

    def reserve(self, mib: int) -> None:
        self.reserved = mib * MIB
        self.most = max(self.most, self.reserved)

    def memory_reserved(self, device: int) -> int:
        assert device == 0
        return self.reserved

    def max_memory_reserved(self, device: int) -> int:
        if self.error:
            raise self.error
        return self.most

    def reset_peak_memory_stats(self, device: int) -> None:
        self.most = self.reserved


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A torch that a task has loaded."""
    torch, made = ModuleType("torch"), FakeCuda()
    torch.cuda = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    return made


def watch(meter: ScriptedMeter, clock: ManualClock | None = None) -> PeakWatch:
    made = clock or ManualClock()
    return PeakWatch(meter, len(meter.now), NEVER_S, clock=made.monotonic)


def test_it_is_the_most_on_one_device_that_was_seen() -> None:
    meter, clock = ScriptedMeter(1000, 200), ManualClock()
    watching = watch(meter, clock)
    watching.begin()
    watching.look()
    meter.now = (600, 3000)
    watching.look()
    meter.now = (500, 100)
    clock.advance(1.0)
    assert watching.end() == Peak(3000, Attribution.PID)


def test_each_run_begins_from_nothing() -> None:
    meter, clock = ScriptedMeter(4000), ManualClock()
    watching = watch(meter, clock)
    watching.begin()
    assert watching.end() == Peak(4000, Attribution.PID)
    meter.now = (1000,)
    clock.advance(1.0)
    watching.begin()
    assert watching.end() == Peak(1000, Attribution.PID)


def test_a_run_that_nobody_looked_at_has_no_peak() -> None:
    meter, clock = ScriptedMeter(4000), ManualClock()
    watching = watch(meter, clock)
    found = []
    for _ in range(100):
        watching.begin()
        clock.advance(0.001)
        found.append(watching.end())
    assert meter.looks == 2, "one in 50 ms"
    assert found.count(Peak(4000, Attribution.PID)) == 2
    assert found.count(None) == 98


@pytest.mark.parametrize("now", [(None,), (0,), (None, 0)])
def test_what_is_not_known_and_what_is_not_used_are_no_peak(now: Use) -> None:
    watching = watch(ScriptedMeter(*now))
    watching.begin()
    assert watching.end() is None


def test_a_look_that_ends_in_a_later_run_is_forgotten() -> None:
    meter = ScriptedMeter(9000)
    watching = watch(meter)
    watching.begin()

    def next_run() -> None:
        meter.on_look = lambda: None
        watching.begin()

    meter.on_look = next_run
    watching.look()
    assert watching.end() is None


def test_a_meters_own_word_counts_without_a_look() -> None:
    meter, clock = ScriptedMeter(100), ManualClock()
    watching = watch(meter, clock)
    watching.begin()
    watching.look()
    meter.said = (2500,)
    assert watching.end() == Peak(2500, Attribution.PID)
    assert meter.looks == 1


def test_an_allocators_peak_counts_with_what_the_process_has_beside_it(cuda: FakeCuda) -> None:
    meter, clock = ScriptedMeter(0), ManualClock()
    watching = watch(meter, clock)
    watching.begin()
    cuda.reserve(6000)
    cuda.reserve(1000)
    meter.now = (1400,)
    clock.advance(1.0)
    assert watching.end() == Peak(6400, Attribution.PID), "400 MiB of context"
    watching.begin()
    assert watching.end() == Peak(1400, Attribution.PID), "counted anew, and the context is still known"
    clock.advance(1.0)
    watching.begin()
    meter.now = (9000,)
    assert watching.end() == Peak(9000, Attribution.PID), "another library took more than torch"


def test_where_the_device_tells_nothing_a_context_is_assumed(cuda: FakeCuda) -> None:
    watching = watch(ScriptedMeter(None))
    watching.begin()
    cuda.reserve(6000)
    assert watching.end() == Peak(6000 + CONTEXT_MIB, Attribution.PID)


def test_by_reservation_an_allocator_is_believed_and_the_device_is_not(cuda: FakeCuda) -> None:
    watching = watch(ScriptedMeter(20_000, attribution=Attribution.RESERVATION))
    watching.begin()
    cuda.reserve(6000)
    assert watching.end() == Peak(6000 + CONTEXT_MIB, Attribution.ALLOCATOR)


@pytest.mark.parametrize("attribution", [Attribution.PID, Attribution.RESERVATION])
def test_a_torch_without_cuda_changes_nothing(cuda: FakeCuda, attribution: Attribution) -> None:
    watching = watch(ScriptedMeter(700, attribution=attribution))
    cuda.initialized = False
    watching.begin()
    assert watching.end() == Peak(700, attribution)


def test_a_torch_that_fails_is_not_asked_again(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    cuda.error = RuntimeError("no such statistic")
    watching = watch(ScriptedMeter(700))
    for _ in range(2):
        watching.begin()
        cuda.reserve(6000)
        watching.end()
    assert [record.getMessage() for record in caplog.records] == [
        "torch does not tell what it has reserved, so it is not asked again: RuntimeError('no such statistic')"
    ]


def test_a_thread_looks_while_a_run_is_under_way_and_sleeps_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Driven by hand: the thread's naps end when the test says so."""
    naps, looked = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr(peaks.time, "sleep", lambda seconds: naps.acquire())
    meter, clock = ScriptedMeter(1000), ManualClock()
    watching = watch(meter, clock)
    meter.on_look = looked.release

    def nap_ends_with_a_look() -> None:
        naps.release()
        assert looked.acquire(timeout=DEADLINE_S)

    for mib in (5000, 1000):
        watching.begin()
        meter.now = (mib,)
        nap_ends_with_a_look()
        meter.now = (10,)
        nap_ends_with_a_look()
        assert watching.end() == Peak(mib, Attribution.PID)
        looks = meter.looks
        naps.release()
        # It has gone to sleep, or the next round would find a nap to end.
        deadline = threading.Event()
        while watching._active.is_set():
            assert not deadline.wait(0.01)
        assert meter.looks == looks
