"""What is asked of a task whose record is all that is known of it, and forecasts of what a bridge published."""

from __future__ import annotations

from celeray.scheduler.explanations.verdicts import Picture
from celeray.scheduler.explanations.waiting import NOT_YET, explain_waiting, forecast_of, request_of
from celeray.scheduler.model import Reason, Reserved, ResourceRequest
from celeray.scheduler.placement.forecasting import NoForecast
from celeray.scheduler.status import TaskState
from tests.cycle_samples import GIB, PAIR, WHOLE, published, running, waiting
from tests.status_samples import record

HELD = {"state": TaskState.WAITING, "started_at": None, "ended_at": None}


def test_the_request_of_a_record() -> None:
    assert request_of(record(**HELD)) == ResourceRequest(gpus=1, memory_mib=12 * GIB)
    assert request_of(record(**HELD, vram_mib=None)) == WHOLE
    raised = request_of(record(**HELD, raised_mib=18 * GIB))
    assert (raised.memory_mib, raised.exclusive) == (18 * GIB, False)
    larger = request_of(record(**HELD, vram_mib=None, raised_mib=40 * GIB))
    assert (larger.memory_mib, larger.exclusive) == (40 * GIB, True), "it stays whole"
    cpu = request_of(record(**HELD, gpus=0, vram_mib=None, cpus_milli=2_000, host_memory_mib=512))
    assert cpu == ResourceRequest(cpus_milli=2_000, host_memory_mib=512)


def test_what_the_last_cycle_said_counts_and_what_is_new_has_the_reason_of_the_next() -> None:
    mine = waiting("mine", 1, PAIR)
    seen = Picture(published(mine, reasons={1: Reason.RESERVED}), running())
    assert explain_waiting(record("mine", **HELD), seen, 0.0).reason is Reason.RESERVED
    new = explain_waiting(record("mine", **HELD), Picture(published(mine), running()), 0.0)
    assert (new.reason, new.ahead) == (Reason.EXCLUSIVE, 0)
    next_to_go = waiting("small", 2, ResourceRequest(gpus=1, memory_mib=GIB))
    goes = explain_waiting(record("small", **HELD), Picture(published(mine, next_to_go), running()), 0.0)
    assert goes.reason is None
    assert goes.words.startswith("It comes with the next placement cycle")


def test_a_reservation_for_one_that_is_not_published_is_not_shown() -> None:
    kept = Reserved(99, "a", ("a0",), None)
    found = Picture(published(waiting("mine", 1, PAIR), reserved=kept), running())
    assert explain_waiting(record("mine", **HELD), found, 0.0).reservation is None
    unknown = explain_waiting(record("other", **HELD), found, 0.0)
    assert (unknown.words, unknown.start, unknown.ahead_is_least) == (NOT_YET, None, False)


def test_a_class_that_fails_to_start_holds_nobody_up() -> None:
    failing = waiting("failing", 1, PAIR, priority=10)
    other = waiting("other", 2, PAIR, expected_ms=1_000)
    found = forecast_of(published(failing, other, reasons={1: Reason.EXECUTOR_FAILED}), {1, 2})
    assert (found[1].why, found[1].starts_in_ms) == (NoForecast.EXECUTOR_FAILED, None)
    assert (found[2].starts_in_ms, found[2].known) == (9_000, True)
