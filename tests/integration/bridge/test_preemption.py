"""A run that is put back for an urgent task on a real bridge: all that follows from it happens once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord

from celeray.scheduler.model import Reason
from celeray.scheduler.overview import read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
TIMEOUT_S = 60


@pytest.fixture
def bridge(broker: str, tmp_path: Path) -> Iterator[LiveBridge]:
    """One simulated device of 24 GiB, of which each of the tasks wants 20."""
    bridge = LiveBridge(broker, tmp_path, gpus="1x24GiB", env={"CELERAY_PREEMPTION": "true"}).start()
    yield bridge
    bridge.stop()


@pytest.fixture
def app(bridge: LiveBridge) -> Celery:
    return application(bridge.url)


@pytest.fixture
def client(bridge: LiveBridge) -> Iterator[Any]:
    with redis.Redis.from_url(bridge.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def go(client: Any) -> Iterator[str]:
    """A key that a task waits for: set in any case, or the bridge would wait for the task."""
    key = f"go-{uuid.uuid4()}"
    yield key
    client.set(key, "1")


def overview_of(bridge: LiveBridge) -> Any:
    with redis.Redis.from_url(bridge.url) as raw:
        return read_overview(StatusStore(raw), Settings(), time.time())


@pytest.mark.slow
def test_an_urgent_task_has_the_device_and_the_other_runs_again_once(
    app: Celery, bridge: LiveBridge, client: Any, go: str
) -> None:
    log = f"log-{uuid.uuid4()}"
    # One executor for all that is small: starting one takes a second or two.
    shared = {"headers": {"resource_requirements": {"executor": "small"}}}
    task, asks = app.tasks["gpu.logged"], {"vram_gb": 20, "preemptible": True}
    long = task.s(log, "long", go).set(
        priority=3,
        headers={"resource_requirements": asks},
        link=app.tasks["gpu.note"].si(f"{log}:linked").set(**shared),
        task_id=str(uuid.uuid4()),
    )
    body = chord([long, app.tasks["gpu.add"].s(1, 2).set(**shared)])(
        app.tasks["gpu.gathered"].s().set(**shared)
    )
    until(lambda: client.lrange(log, 0, -1) == ["long begins"], "it runs")

    urgent = task.apply_async((log, "urgent"), priority=9)
    assert urgent.get(timeout=TIMEOUT_S) == "urgent"
    until(lambda: client.llen(log) == 4, "it runs again")
    another = task.apply_async((log, "another"), priority=10)
    until(
        lambda: any(
            queue.reasons.get(Reason.VRAM) for one in overview_of(bridge).bridges for queue in one.queues
        ),
        "the second urgent one waits for its end",
    )
    client.set(go, "1")

    assert body.get(timeout=TIMEOUT_S) == ["long", 3]
    assert another.get(timeout=TIMEOUT_S) == "another"
    assert client.lrange(log, 0, -1) == [
        *("long begins", "urgent begins", "urgent ends"),
        *("long begins", "long ends", "another begins", "another ends"),
    ]
    until(lambda: client.get(f"{log}:linked") == "1", "its callback ran once")
    until(lambda: not client.hlen("unacked"), "all is acknowledged")
    assert not client.hlen("celeray:begun")
    assert not client.hlen("celeray:parked")
    with redis.Redis.from_url(bridge.url) as raw:
        record = until(lambda: StatusStore(raw).read_task(long.id), "its record is there")
    assert record.preempted.for_task == urgent.id
    counted = [(item.name, item.count) for item in overview_of(bridge).totals.preempted]
    assert counted == [("gpu.logged", 1)]
    assert f"put back for the urgent {urgent.id}" in bridge.log.read_text()
