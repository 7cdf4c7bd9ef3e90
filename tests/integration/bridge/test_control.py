"""Control and inspect, with a real bridge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from celeray.scheduler.broker import broker_redis
from celeray.scheduler.model import Reason
from celeray.scheduler.placement import load_cycle, place
from celeray.scheduler.status import TaskState
from celeray.scheduler.status_store import StatusStore

from .live import LiveBridge, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


def task(app: Celery, name: str) -> Any:
    return app.tasks[f"gpu.{name}"]


@pytest.fixture
def blocked(app: Celery) -> Any:
    """Both devices are taken by tasks that run until the test revokes them."""
    runs = [task(app, "whole").delay(60.0) for _ in range(2)]
    for run in runs:
        until(lambda run=run: run.state == "STARTED", "both devices are taken")
    yield runs
    app.control.revoke([run.id for run in runs], terminate=True)
    for run in runs:
        until(run.ready, "the devices are free again")


def ask(app: Celery, node: str) -> Any:
    return app.control.inspect([node], timeout=2.0)


def test_revoking_a_running_task_ends_it_and_frees_the_device(app: Celery) -> None:
    runs = [task(app, "whole").delay(60.0) for _ in range(2)]
    for run in runs:
        until(lambda run=run: run.state == "STARTED", "both devices are taken")
    waiting = task(app, "whole").delay(0.0)
    runs[0].revoke(terminate=True)
    assert waiting.get(timeout=60)["devices"], "it got the device of the revoked one"
    runs[1].revoke(terminate=True)
    for run in runs:
        with pytest.raises(TaskRevokedError, match="terminated"):
            run.get(timeout=60)


def test_revoking_a_waiting_task_takes_it_out(app: Celery, blocked: Any, shared_bridge: LiveBridge) -> None:
    waiting = task(app, "whole").delay(0.0)
    node = shared_bridge.node
    until(
        lambda: any(r["id"] == waiting.id for r in (ask(app, node).reserved() or {}).get(node, ())),
        "the bridge holds the message",
    )
    waiting.revoke()
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=60)
    until(
        lambda: all(r["id"] != waiting.id for r in ask(app, node).reserved()[node]),
        "it is out of the window",
    )


def test_inspect(app: Celery, blocked: Any, shared_bridge: LiveBridge) -> None:
    node = shared_bridge.node
    later = task(app, "add").apply_async((1, 1), countdown=300)
    found = ask(app, node)
    assert {entry["id"] for entry in found.active()[node]} == {run.id for run in blocked}
    until(
        lambda: [entry["request"]["id"] for entry in ask(app, node).scheduled()[node]] == [later.id],
        "the task with a countdown is scheduled",
    )
    pool = found.stats()[node]["pool"]
    assert pool["implementation"] == "celeray.scheduler.bridge.pool:TaskPool"
    assert pool["running"] == 2
    assert {entry["worker_pid"] for entry in found.active()[node]} <= set(pool["processes"])
    assert "gpu.here" in found.registered()[node]
    later.revoke()


def test_queues_are_added_and_taken_away(app: Celery, shared_bridge: LiveBridge) -> None:
    node = shared_bridge.node
    app.control.add_consumer("extra", destination=[node], reply=True)
    result = task(app, "on_cpu").apply_async(queue="extra")
    assert result.get(timeout=60)["pid"] != shared_bridge.pid
    app.control.cancel_consumer("extra", destination=[node], reply=True)
    until(
        lambda: "extra" not in {queue["name"] for queue in ask(app, node).active_queues()[node]},
        "the queue is not consumed any more",
    )


def test_the_window_grows_and_shrinks_but_never_to_nothing(app: Celery, shared_bridge: LiveBridge) -> None:
    node = shared_bridge.node
    before = ask(app, node).stats()[node]["pool"]["max-concurrency"]
    app.control.pool_grow(3, destination=[node], reply=True)
    assert ask(app, node).stats()[node]["pool"]["max-concurrency"] == before + 3
    app.control.pool_shrink(3, destination=[node], reply=True)
    assert ask(app, node).stats()[node]["pool"]["max-concurrency"] == before
    (reply,) = app.control.pool_shrink(10_000, destination=[node], reply=True)
    assert "must hold at least 1" in reply[node]["error"]


def test_a_pool_restart_replaces_the_executors(app: Celery, shared_bridge: LiveBridge) -> None:
    node = shared_bridge.node
    before = task(app, "here").delay().get(timeout=60)["pid"]
    (reply,) = app.control.broadcast("pool_restart", destination=[node], reply=True)
    assert reply[node] == {"ok": "reload started"}
    assert task(app, "here").delay().get(timeout=60)["pid"] != before


def test_a_placement_cycle_of_the_running_bridge_replays(
    app: Celery, blocked: Any, shared_bridge: LiveBridge
) -> None:
    node = shared_bridge.node
    waiting = task(app, "whole").delay(0.0)

    def dumped() -> Any:
        (reply,) = app.control.broadcast("placement_cycle", destination=[node], reply=True)
        found = load_cycle(json.dumps(reply[node]))
        return found if [entry.task_id for entry in found.waiting] == [waiting.id] else None

    cycle = until(dumped, "the last cycle had the waiting task in it")
    decisions = place(cycle.waiting, cycle.snapshot, cycle.policy)
    assert not decisions.placements
    assert set(decisions.waiting.values()) == {Reason.EXCLUSIVE}
    waiting.revoke()


def test_rate_limits(app: Celery, shared_bridge: LiveBridge) -> None:
    node = shared_bridge.node
    app.control.rate_limit("gpu.plain", "1/m", destination=[node], reply=True)
    results = [task(app, "plain").apply_async((n,), queue="gpu.processing") for n in range(2)]
    until(lambda: any(result.ready() for result in results), "the first one runs")
    until(
        lambda: len(ask(app, node).reserved()[node]) == 0,
        "the second one is held by Celery's bucket, not by the pool",
    )
    assert sum(result.ready() for result in results) == 1
    app.control.rate_limit("gpu.plain", "0", destination=[node], reply=True)
    app.control.revoke([result.id for result in results])


def test_where_a_task_ran_is_told_through_redis(app: Celery, shared_bridge: LiveBridge) -> None:
    result = task(app, "here").apply_async(priority=8)
    seen = result.get(timeout=60)
    store = StatusStore(broker_redis(app))
    record = until(
        lambda: (r := store.read_task(result.id)) is not None and r.state is TaskState.SUCCEEDED and r,
        "the record is written",
    )
    assert record.device_uuids == (seen["devices"],)
    assert (record.queue, record.priority, record.vram_mib) == ("gpu.processing", 8, 4096)
    assert record.run_s is not None
    assert shared_bridge.node in {bridge.hostname for bridge in store.read_bridges()}
    store.close()
