"""The status in a real Redis: written as bridges write it, read as the API reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celeray.scheduler import status_store
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.counters import Counters
from celeray.scheduler.keys import Keys
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.status import TaskRecord, TaskState
from celeray.scheduler.status_store import GONE_BRIDGE_S, StatusStore, UnreadableStatusError
from tests.status_samples import NOW, bridge, counters, record

pytestmark = pytest.mark.integration


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> StatusStore:
    return StatusStore(client)


def finished(counters: Counters) -> int:
    return sum(item.count for item in counters.finished)


def ids(records: list[TaskRecord]) -> list[str]:
    return [item.task_id for item in records]


def test_a_bridge_is_read_as_it_was_written(store: StatusStore, client: redis.Redis) -> None:
    store.publish(bridge("b2"), [])
    store.publish(bridge("b1"), [])
    assert store.read_bridges() == [bridge("b1"), bridge("b2")]
    lives = client.pttl(store.keys.bridge("b1"))
    assert 9_000 < lives <= 10_000


def test_a_slow_interval_lets_the_document_live_longer(client: redis.Redis) -> None:
    store = StatusStore(client, interval_s=3.0)
    store.publish(bridge(), [])
    assert 29_000 < client.pttl(store.keys.bridge("b1")) <= 30_000


def test_a_document_that_can_not_be_read_is_said(store: StatusStore, client: redis.Redis) -> None:
    store.publish(bridge(), [])
    client.set(store.keys.bridge("b1"), '{"bridge_id": 1}')
    with pytest.raises(UnreadableStatusError, match="BridgeStatus"):
        store.read_bridges()


def test_a_bridge_that_vanished_is_listed_for_an_hour(store: StatusStore, client: redis.Redis) -> None:
    store.publish(bridge("b1"), [])
    store.publish(bridge("b2"), [])
    client.delete(store.keys.bridge("b1"))
    found = store.summaries(store.read_bridges(), NOW + 30)
    assert [(item.hostname, item.up, item.age_s) for item in found] == [
        ("gpu-b2@host", True, 30.0),
        ("gpu-b1@host", False, 30.0),
    ]
    assert len(store.summaries([], NOW + GONE_BRIDGE_S + 1)) == 0
    store.forget_gone(NOW + GONE_BRIDGE_S + 1)
    assert client.zcard(store.keys.bridges()) == 0
    store.forget_gone(NOW)


def test_a_bridge_that_was_replaced_is_not_down(store: StatusStore, client: redis.Redis) -> None:
    store.publish(bridge("old", hostname="gpu@host"), [])
    client.delete(store.keys.bridge("old"))
    store.publish(bridge("new", hostname="gpu@host"), [])
    assert [item.bridge_id for item in store.summaries(store.read_bridges(), NOW)] == ["new"]


def test_a_bridge_that_ends_as_planned_is_off_the_list(store: StatusStore) -> None:
    store.publish(bridge(), [])
    store.retire("b1")
    assert store.read_bridges() == []
    assert store.summaries([], NOW) == []
    assert finished(store.read_totals()) == 2


def test_counters_add_up_over_bridges_and_survive_them(store: StatusStore, client: redis.Redis) -> None:
    for bridge_id in ("b1", "b2"):
        store.publish(bridge(bridge_id, counters=counters(2)), [])
    store.publish(bridge("b1", counters=counters(5)), [])
    client.delete(store.keys.bridge("b1"), store.keys.bridge("b2"))
    totals = store.read_totals()
    assert finished(totals) == 7
    assert (sum(totals.placement[0].counts), totals.placement[0].sum) == (9, 19.0)


def test_writing_the_same_counters_twice_changes_nothing(store: StatusStore, client: redis.Redis) -> None:
    """A pipeline whose reply was lost is sent again, perhaps by a store that knows nothing of the first time."""
    store.publish(bridge(), [])
    store.publish(bridge(), [])
    StatusStore(client).publish(bridge(), [])
    assert finished(store.read_totals()) == 2


def test_a_task_is_read_as_it_was_written(store: StatusStore) -> None:
    store.publish(bridge(), [record().stored()])
    assert store.read_task("t1") == record()
    assert store.read_task("t2") is None


def test_what_the_recorder_writes_is_read_back(store: StatusStore) -> None:
    recorder = Recorder()
    facts = recorder.received("t1", "film.generate", "gpu.generation", 5, ResourceRequest(gpus=1), NOW)
    store.publish(bridge(), [item.stored("b1", "gpu@host") for item in recorder.take().facts])
    assert ids(store.recent_tasks(state=TaskState.WAITING)) == ["t1"]
    recorder.ended(facts, TaskState.REVOKED, NOW + 1)
    store.publish(bridge(), [item.stored("b1", "gpu@host") for item in recorder.take().facts])
    assert store.recent_tasks(state=TaskState.WAITING) == []
    assert ids(store.recent_tasks(state=TaskState.REVOKED)) == ["t1"]


def test_recent_tasks_newest_first_and_by_filter(store: StatusStore) -> None:
    records = [
        record("old", ended_at=NOW - 5),
        record("new", ended_at=NOW - 1, state=TaskState.FAILED),
        record("other", ended_at=NOW - 3, queue="gpu.processing"),
        record("open", started_at=NOW - 2, ended_at=None, state=TaskState.RUNNING),
    ]
    store.publish(bridge(), [item.stored() for item in records])
    assert ids(store.recent_tasks()) == ["new", "open", "other", "old"]
    assert ids(store.recent_tasks(limit=2)) == ["new", "open"]
    assert ids(store.recent_tasks(state=TaskState.FAILED)) == ["new"]
    assert ids(store.recent_tasks(queue="gpu.processing")) == ["other"]
    assert ids(store.recent_tasks(state=TaskState.RUNNING, queue="gpu.processing")) == []


def test_pages_follow_each_other_over_equal_times(
    store: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_store, "SCAN_PAGE", 2)
    records = [record(f"t{number}", ended_at=NOW - number // 4 + 0.123456789) for number in range(10)]
    records += [record("run", started_at=NOW + 0.123456789, ended_at=None, state=TaskState.RUNNING)]
    store.publish(bridge(), [item.stored() for item in records])
    seen: list[str] = []
    after = None
    while page := store.recent_tasks(limit=3, after=after):
        seen += ids(page)
        after = (page[-1].changed_at, page[-1].task_id)
    assert sorted(seen) == sorted(ids(records))
    assert len(seen) == len(set(seen))
    assert seen == ids(store.recent_tasks(limit=100))


def test_ended_runs_are_kept_up_to_a_number_and_open_ones_always(
    store: StatusStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_store, "ENDED_TASKS_MAX", 3)
    open_one = record("open", started_at=NOW - 500, ended_at=None, state=TaskState.RUNNING)
    many = [record(f"t{number}", ended_at=NOW - 100 + number) for number in range(1200)]
    store.publish(bridge(written_at=NOW + 1200), [item.stored() for item in (open_one, *many)])
    store.publish(bridge(written_at=NOW + 1200), [record("last", ended_at=NOW + 1200).stored()])
    assert ids(store.recent_tasks()) == ["last", "t1199", "t1198", "open"]
    assert client.hlen(store.keys.tasks()) == 4
    assert store.read_task("t1") is None


def test_records_go_with_age(client: redis.Redis) -> None:
    store = StatusStore(client, result_ttl_s=60)
    lost = record("lost", started_at=NOW, ended_at=None, state=TaskState.RUNNING)
    store.publish(bridge(written_at=NOW), [record("ended", ended_at=NOW).stored(), lost.stored()])
    store.publish(bridge(written_at=NOW + 61), [record("next", ended_at=NOW + 61).stored()])
    assert ids(store.recent_tasks()) == ["next", "lost"]
    day = NOW + 90_000
    store.publish(bridge(written_at=day), [record("tomorrow", ended_at=day).stored()])
    assert ids(store.recent_tasks()) == ["tomorrow"]
    assert 86_000 < client.ttl(store.keys.tasks()) <= 86_400


def test_queue_depths_over_all_priorities(store: StatusStore, client: redis.Redis) -> None:
    client.rpush("gpu.generation", "a", "b")
    client.rpush("gpu.generation\x06\x163", "c")
    client.rpush("gpu.generation\x06\x169", "d", "e", "f")
    depths = store.queue_depths(["gpu.generation", "io.storage", "gpu.generation"])
    assert depths == {"gpu.generation": {10: 2, 7: 1, 1: 3}, "io.storage": {}}


def test_prefix_and_separator_of_the_broker_are_honoured(client: redis.Redis) -> None:
    store = StatusStore(client, keys=Keys(prefix="film:", separator=":", unacked_key="held"))
    client.rpush("film:gpu.generation:4", "a")
    client.hset("film:held", "tag", "message")
    store.publish(bridge(), [record().stored()])
    assert store.queue_depths(["gpu.generation"]) == {"gpu.generation": {6: 1}}
    assert store.unacked() == 1
    assert store.read_task("t1") == record()
    written = {key.decode() for key in client.keys("*celeray*")}
    assert written
    assert all(key.startswith("film:celeray:") for key in written)


def test_unacked_messages_are_counted(store: StatusStore, client: redis.Redis) -> None:
    assert store.unacked() == 0
    client.hset("unacked", mapping={"a": "1", "b": "2"})
    assert store.unacked() == 2


def test_a_server_that_forgot_its_scripts_gets_them_again(store: StatusStore, client: redis.Redis) -> None:
    store.publish(bridge(), [record("t1").stored()])
    client.script_flush()
    store.publish(bridge(counters=counters(9)), [record("t2").stored()])
    assert len(store.recent_tasks()) == 2
    assert finished(store.read_totals()) == 9
