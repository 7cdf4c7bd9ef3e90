"""Runs whose lease is lost: ended at once, told to nobody. And how long the others may go on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from celeray.scheduler.bridge.lease_watch import LeaseWatch
from celeray.scheduler.cluster import EndCause
from celeray.scheduler.fencing import Fence
from celeray.scheduler.states import RunState
from celeray.scheduler.transport.leases import LeaseBook

from .harness import Harness, NotedPort, port


def shown(bridge: Harness) -> list[tuple[str, str | None]]:
    """State and reason of every run that changed."""
    records = [json.loads(fact.stored("b", "h").document) for fact in bridge.recorder.take().facts]
    return [(record["state"], record["reason"]) for record in records]


def test_a_waiting_run_leaves() -> None:
    bridge = Harness()
    run = bridge.submit()
    bridge.dispatcher.lease_lost(run)
    assert port(run).words == ["lease_lost"]
    assert len(bridge.dispatcher.waiting) == 0
    assert shown(bridge) == [("lost", "lease_lost")]


def test_a_begun_run_is_ended_with_its_executor() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    bridge.dispatcher.lease_lost(run)
    assert executor_id not in bridge.cluster.executors, "killed"
    bridge.advance(1.0)
    assert port(run).words == ["begun", "lease_lost"], "neither lost nor failed"
    assert run.state is RunState.ENDED
    # Twice changes nothing.
    bridge.dispatcher.lease_lost(run)
    assert port(run).words == ["begun", "lease_lost"]
    following = bridge.submit()
    bridge.advance(1.0)
    bridge.begin(following)
    assert port(following).words == ["begun"]


def test_an_executor_that_its_node_ended_takes_no_message_along() -> None:
    bridge = Harness()
    run = bridge.submit()
    executor_id = bridge.begin(run)
    bridge.cluster.end(executor_id, EndCause.LEASE_LOST)
    bridge.step()
    assert port(run).words == ["begun", "lease_lost"]
    assert shown(bridge)[-1] == ("lost", "lease_lost")


def test_under_leases_a_message_that_comes_again_ends_its_earlier_run() -> None:
    bridge = Harness()
    run = bridge.submit()
    run.fence = Fence(5, "message")
    bridge.begin(run)
    later = NotedPort()
    assert bridge.dispatcher.adopt(run.task_id, 0, later, Fence(7, "another message of this id")) is None
    assert port(run).words == ["begun"]
    assert bridge.dispatcher.adopt(run.task_id, 0, later, Fence(9, "message")) is None
    assert port(run).words == ["begun", "lease_lost"]


def test_without_leases_it_is_adopted() -> None:
    bridge = Harness()
    run = bridge.submit()
    bridge.begin(run)
    later = NotedPort()
    assert bridge.dispatcher.adopt(run.task_id, 0, later) is run
    assert later.words == ["begun"]


def book(renewed_at: float, *, idle: bool = False) -> Any:
    return cast(
        LeaseBook,
        SimpleNamespace(
            renewed_at=renewed_at, idle=idle, on_renewed=[], options=SimpleNamespace(lease_s=30.0)
        ),
    )


def test_runs_may_go_on_as_long_as_the_book_that_was_renewed_first() -> None:
    told: list[tuple[float, float]] = []
    watch = LeaseWatch(lambda sent_at, lease_s: told.append((sent_at, lease_s)))
    old, new = book(10.0), book(20.0, idle=True)
    watch.watch(old)
    watch.watch(new)
    assert told == [(10.0, 30.0), (10.0, 30.0)]
    new.renewed_at = 25.0
    new.on_renewed[0]()
    assert told[-1] == (10.0, 30.0), "the old channel's runs are not renewed"
    old.idle = True
    new.on_renewed[0]()
    assert told[-1] == (25.0, 30.0)
