"""What usually comes, from which placement takes its prices."""

from __future__ import annotations

import threading

import pytest

from celeray.scheduler.bridge import workload as module
from celeray.scheduler.bridge.workload import ARRIVALS_MIN, PRIOR_SHAPES_MAX, SHAPES_MAX, Workload
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.prior import PriorShape

SMALL = ResourceRequest(gpus=1, memory_mib=4096)
LARGE = ResourceRequest(gpus=1, memory_mib=20_000)


def made(workload: Workload) -> None:
    for thread in threading.enumerate():
        if thread.name == "celeray-prices":
            thread.join(30)


def test_prices_are_made_once_enough_came_and_again_when_half_as_many_more_did() -> None:
    workload = Workload()
    for _ in range(ARRIVALS_MIN - 1):
        workload.note(SMALL)
    assert not workload.is_due()
    workload.note(LARGE)
    assert workload.is_due()
    workload.begin({24_576})
    assert not workload.is_due()
    made(workload)
    prior = workload.take()
    assert prior is not None
    assert prior.shapes == (
        PriorShape(1, 4096, 0, weight=ARRIVALS_MIN - 1),
        PriorShape(1, 20_000, 0, weight=1),
    )
    assert workload.take() is None, "once"
    for _ in range(ARRIVALS_MIN // 2 - 1):
        workload.note(SMALL)
    assert not workload.is_due()
    workload.note(SMALL)
    assert workload.is_due()


def test_what_came_once_is_forgotten_when_there_are_too_many_kinds() -> None:
    workload = Workload()
    for _ in range(10):
        workload.note(SMALL)
    for number in range(SHAPES_MAX):
        workload.note(ResourceRequest(gpus=1, memory_mib=10_000 + number))
    workload.begin(set())
    made(workload)
    prior = workload.take()
    assert prior is not None
    assert prior.shapes == (PriorShape(1, 4096, 0, weight=5),)


def test_only_the_most_frequent_shapes_make_the_prices() -> None:
    workload = Workload()
    for number in range(PRIOR_SHAPES_MAX + 10):
        for _ in range(number + 1):
            workload.note(ResourceRequest(gpus=1, memory_mib=1000 + number))
    workload.begin(set())
    made(workload)
    prior = workload.take()
    assert prior is not None
    assert len(prior.shapes) == PRIOR_SHAPES_MAX
    assert prior.shapes[0].memory_mib == 1000 + PRIOR_SHAPES_MAX + 9


def test_prices_that_can_not_be_made_leave_those_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(prior: object, mib: int) -> None:
        raise ArithmeticError(mib)

    monkeypatch.setattr(module, "worth_table", broken)
    workload = Workload()
    workload.begin({1000})
    made(workload)
    assert workload.take() is None
    assert "could not be made" in caplog.text
