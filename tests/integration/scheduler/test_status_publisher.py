"""The publisher thread against a real Redis that goes away and comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from celeray.scheduler.bridge.publisher import StatusPublisher
from celeray.scheduler.bridge.recorder import Recorder, TaskFacts
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.explanations.published import PublishedCycles
from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.status_store import StatusStore
from tests.cycle_samples import WHOLE, published, waiting
from tests.status_samples import NOW, bridge

pytestmark = pytest.mark.integration
DEADLINE_S = 20.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_at, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def runs(*task_ids: str) -> list[TaskFacts]:
    recorder = Recorder()
    return [
        recorder.received(name, "film.generate", "gpu.x", 5, ResourceRequest(gpus=1), NOW)
        for name in task_ids
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis").start()
    yield server
    server.stop()


@pytest.fixture
def store(server: EmbeddedRedis) -> Iterator[StatusStore]:
    store = StatusStore(redis.Redis.from_url(server.url))
    yield store
    store.close()


def open_store(server: EmbeddedRedis) -> StatusStore:
    return StatusStore(redis.Redis.from_url(server.url, socket_timeout=1, socket_connect_timeout=1))


def test_what_is_offered_is_written_and_the_end_takes_the_bridge_off(
    server: EmbeddedRedis, store: StatusStore
) -> None:
    publisher = StatusPublisher(lambda: open_store(server))
    publisher.start()
    publisher.offer(bridge(), runs("t1"))
    wait_for(lambda: store.read_task("t1") is not None, "t1 is written")
    assert store.read_bridges() == [bridge()]
    publisher.offer(bridge(waiting=9), runs("t2"))
    publisher.stop(timeout_s=DEADLINE_S)
    assert not publisher.is_alive()
    assert store.read_task("t2") is not None
    assert store.read_bridges() == []


def test_the_newest_cycle_is_written_bounded_and_gone_with_its_bridge(
    server: EmbeddedRedis, store: StatusStore
) -> None:
    cycles = PublishedCycles(store.client, store.keys)
    publisher = StatusPublisher(lambda: open_store(server))
    publisher.start()
    publisher.offer(bridge(), (), published(waiting("first", 1, WHOLE)))
    wait_for(lambda: "b1" in cycles.read(["b1"]), "the cycle is written")
    publisher.offer(bridge(waiting=9), ())
    wait_for(lambda: store.read_bridges()[0].waiting == 9, "the status alone is written")
    assert cycles.read(["b1", "b2"])["b1"].task("first") is not None
    many = [waiting(f"t{n}", n, WHOLE) for n in range(1_200, 0, -1)]
    publisher.offer(bridge(), (), published(*many, reasons={1: Reason.VRAM, 1_200: Reason.VRAM}))
    wait_for(lambda: cycles.read(["b1"])["b1"].left_out == 200, "the next one is written")
    found = cycles.read(["b1"])["b1"]
    assert [task.sequence for task in found.cycle.waiting] == list(range(1, 1_001))
    assert found.reasons == {1: Reason.VRAM}
    assert 0 < int(store.client.pttl(store.keys.bridge_cycle("b1"))) <= store.bridge_ttl_ms  # type: ignore[arg-type]
    publisher.stop(timeout_s=DEADLINE_S)
    assert cycles.read(["b1"]) == {}


def test_an_end_without_an_offer(server: EmbeddedRedis) -> None:
    publisher = StatusPublisher(lambda: open_store(server))
    publisher.start()
    publisher.stop(timeout_s=DEADLINE_S)
    assert not publisher.is_alive()
    StatusPublisher(lambda: open_store(server)).stop()


def test_runs_are_kept_while_redis_is_away_and_the_oldest_go_beyond_the_bound(
    server: EmbeddedRedis, store: StatusStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publisher = StatusPublisher(lambda: open_store(server), backlog_limit=3)
    publisher.start()
    publisher.offer(bridge(), runs("t0"))
    wait_for(lambda: store.read_task("t0") is not None, "t0 is written")
    server.stop()
    publisher.offer(bridge(), runs("t1", "t2"))
    wait_for(lambda: "not written" in caplog.text, "the failure is logged")
    publisher.offer(bridge(waiting=7), runs("t3", "t4"))
    server.start()
    wait_for(lambda: store.read_task("t4") is not None, "t4 is written")
    wait_for(lambda: "written again" in caplog.text, "the recovery is logged")
    assert store.read_task("t1") is None
    assert publisher.dropped == 1
    (status,) = store.read_bridges()
    assert (status.waiting, status.records_dropped) == (7, 1)
    publisher.stop(timeout_s=DEADLINE_S)


def test_an_end_while_redis_is_away_does_not_wait_for_it(
    server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = StatusPublisher(lambda: open_store(server))
    publisher.start()
    server.stop()
    publisher.offer(bridge(), runs("t1"))
    wait_for(lambda: "not written" in caplog.text, "the failure is logged")
    publisher.stop(timeout_s=DEADLINE_S)
    assert not publisher.is_alive()
    assert "stays listed" in caplog.text
