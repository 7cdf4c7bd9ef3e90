"""Which messages may be put back for an urgent task, as the bridge takes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celeray.scheduler.bridge.intake import Intake
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.fencing import LEASE
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.preempted import HEADER, PutBack
from celeray.scheduler.receiving import Received

from .harness import GIB, Harness, NotedPort

MARK = PutBack(5.0, "urgent")


def message(
    *,
    preemptible: bool = True,
    acks_late: bool = True,
    lease: bool = True,
    put_back: bool = False,
    retries: int = 0,
) -> Any:
    """A worker's request, which was read before."""
    headers: dict[str, Any] = {"task": "film.long", "retries": 0}
    if put_back:
        headers[HEADER] = MARK.header(headers)
    delivery = {LEASE: "7:tag"} if lease else {}
    asked = ResourceRequest(gpus=1, memory_mib=8 * GIB, preemptible=preemptible)
    return SimpleNamespace(
        id="t1",
        type="film.long",
        task=SimpleNamespace(acks_late=acks_late),
        delivery_info=delivery,
        request_dict={"retries": retries, "delivery_info": delivery},
        message=SimpleNamespace(headers={**headers, "retries": retries}),
        celeray_received=Received(5, "gpu.generation", "gpu.generation", asked),
    )


def taken(request: Any, **settings: Any) -> Run:
    bridge = Harness(**{"preemption": True, **settings})
    intake = Intake(bridge.dispatcher, bridge.recorder, bridge.settings, {})
    run = intake.take(request, NotedPort(), soft_limit_s=None, hard_limit_s=None)  # type: ignore[arg-type]
    assert isinstance(run, Run)
    return run


def test_one_that_says_so_under_a_lease() -> None:
    assert taken(message()).preemptible


@pytest.mark.parametrize(
    ("request_", "settings"),
    [
        (message(), {"preemption": False}),
        (message(preemptible=False), {}),
        (message(acks_late=False), {}),
        (message(lease=False), {}),
        (message(put_back=True), {}),
    ],
    ids=["off", "not said", "acknowledged early", "no lease", "put back the time before"],
)
def test_no_other(request_: Any, settings: dict[str, Any]) -> None:
    assert not taken(request_, **settings).preemptible


def test_what_was_put_back_shows_it_and_its_retry_may_be_put_back_again() -> None:
    assert taken(message(put_back=True)).facts.preempted == MARK
    again = taken(message(put_back=True, retries=1))
    assert (again.preemptible, again.facts.preempted) == (True, None)
