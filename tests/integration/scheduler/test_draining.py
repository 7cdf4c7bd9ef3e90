"""The state of what is drained and forgiven, and the trail, in a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.bridge.drain_watch import DrainWatch
from celeray.scheduler.draining import Drains, Subject, SubjectKind, read_drained
from celeray.scheduler.errors import OperatorInputError, UnknownSubjectError
from celeray.scheduler.keys import Keys
from celeray.scheduler.overview import cluster_status, devices, nodes, read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.standing import Drained
from celeray.scheduler.status_store import StatusStore, UnreadableStatusError
from celeray.scheduler.suspensions import Drain
from tests.status_samples import bridge, device, node

pytestmark = pytest.mark.integration
DEVICE = Subject(SubjectKind.DEVICE, "GPU-a")
NODE = Subject(SubjectKind.NODE, "node-1")
NODE_BY_ID = Subject(SubjectKind.NODE, "n1")
DEADLINE_S = 30.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def store(client: redis.Redis) -> StatusStore:
    made = StatusStore(client, keys=Keys(prefix="film:"), interval_s=10.0)
    show(made)
    return made


@pytest.fixture
def drains(store: StatusStore) -> Drains:
    return Drains(store)


def show(store: StatusStore, marked_at: float | None = None) -> None:
    """What a bridge sees: one node with two devices, the first marked by an XID."""
    both = (device("GPU-a", marked_at=marked_at), device("GPU-b", index=1))
    store.publish(bridge(written_at=time.time(), devices=both, nodes=(node(),), queues=()), [])


def trail(store: StatusStore) -> list[tuple[str, str, str, str]]:
    records = AuditTrail(store.client, store.keys).page(500).records
    return [(item.action, item.target, item.by, item.why) for item in records]


def test_drain_and_undrain_are_kept_and_traced(drains: Drains, store: StatusStore) -> None:
    change = drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)
    assert (change.drained, change.changed) == (Drain(by="ops@h", at=5.0, why="fan"), True)
    drains.drain(NODE, by="ops@h", now=6.0)
    found = read_drained(store.client, store.keys)
    assert (list(found.devices), list(found.nodes)) == (["GPU-a"], ["node-1"])
    assert not drains.undrain(Subject(SubjectKind.DEVICE, "GPU-b"), by="ops@h", now=7.0).changed
    assert drains.undrain(DEVICE, by="ops@h", why="new fan", now=7.0).changed
    assert drains.undrain(NODE, by="ops@h", now=8.0).changed
    assert read_drained(store.client, store.keys) == Drained()
    assert trail(store) == [
        ("undrain", "node node-1", "ops@h", "undrained"),
        ("undrain", "device GPU-a", "ops@h", "new fan"),
        ("drain", "node node-1", "ops@h", "drained"),
        ("drain", "device GPU-a", "ops@h", "fan"),
    ]


@pytest.mark.parametrize(("drained", "undrained"), [(NODE, NODE_BY_ID), (NODE_BY_ID, NODE)])
def test_a_node_is_taken_back_by_either_name(
    drains: Drains, store: StatusStore, drained: Subject, undrained: Subject
) -> None:
    drains.drain(drained, by="ops@h", now=5.0)
    assert drains.undrain(undrained, by="ops@h", now=6.0).changed
    assert read_drained(store.client, store.keys) == Drained()


def test_draining_what_is_drained_changes_nothing_but_another_reason_counts(
    drains: Drains, store: StatusStore
) -> None:
    first = drains.drain(DEVICE, by="a@h", why="fan", now=5.0).drained
    again = drains.drain(DEVICE, by="b@h", why="fan", now=9.0)
    assert (again.drained, again.changed) == (first, False)
    other = drains.drain(DEVICE, by="b@h", why="driver", now=9.0)
    assert (other.drained, other.changed) == (Drain(by="b@h", at=5.0, why="driver"), True)
    assert len(trail(store)) == 2
    assert drains.undrain(DEVICE, by="a@h", now=9.0).changed
    assert not drains.undrain(DEVICE, by="a@h", now=9.0).changed
    assert len(trail(store)) == 3


def test_what_no_bridge_sees_is_refused_by_name(
    drains: Drains, store: StatusStore, client: redis.Redis
) -> None:
    for change in (drains.drain, drains.undrain):
        with pytest.raises(UnknownSubjectError, match="no device 'GPU-z'; there are GPU-a, GPU-b"):
            change(Subject(SubjectKind.DEVICE, "GPU-z"), by="ops@h", now=1.0)
        with pytest.raises(UnknownSubjectError, match="no node 'GPU-a'; there are node-1"):
            change(Subject(SubjectKind.NODE, "GPU-a"), by="ops@h", now=1.0)
    with pytest.raises(OperatorInputError, match="why="):
        drains.drain(DEVICE, by="ops@h", why="two\nlines", now=1.0)
    with pytest.raises(OperatorInputError, match="by="):
        drains.undrain(DEVICE, by="", now=1.0)
    assert not client.exists(store.keys.drained(), store.keys.forgiven(), store.keys.audit())


def test_what_is_drained_can_be_undrained_when_nobody_sees_it_any_more(
    drains: Drains, store: StatusStore
) -> None:
    drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)
    store.retire("b1")
    assert not drains.drain(DEVICE, by="ops@h", why="fan", now=6.0).changed
    with pytest.raises(UnknownSubjectError, match="none, or no bridge is up"):
        drains.drain(Subject(SubjectKind.DEVICE, "GPU-b"), by="ops@h", now=6.0)
    assert drains.undrain(DEVICE, by="ops@h", now=7.0).changed


@pytest.mark.parametrize("subject", [DEVICE, NODE, NODE_BY_ID])
def test_undrain_forgives_the_errors_that_are_shown_and_no_later_one(
    drains: Drains, store: StatusStore, subject: Subject
) -> None:
    at = 1_700_000_000.123456
    show(store, marked_at=at)
    change = drains.undrain(subject, by="ops@h", now=5.0)
    assert (change.forgiven, change.changed) == (("GPU-a",), True)
    assert read_drained(store.client, store.keys).forgiven == {"GPU-a": at}
    again = drains.undrain(subject, by="ops@h", now=6.0)
    assert (again.forgiven, again.changed) == ((), False)
    show(store, marked_at=at + 1e-6)
    assert drains.undrain(subject, by="ops@h", now=7.0).forgiven == ("GPU-a",)
    assert [entry[0] for entry in trail(store)] == ["undrain", "undrain"]


def test_a_node_by_its_id_is_that_node(drains: Drains, store: StatusStore) -> None:
    drains.drain(NODE_BY_ID, by="ops@h", why="disk", now=5.0)
    overview = read_overview(store, Settings(), time.time())
    assert [item.drained is not None for item in nodes(overview)] == [True]


def test_what_is_drained_is_shown_at_once_whatever_the_bridges_know(
    drains: Drains, store: StatusStore
) -> None:
    drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)
    drains.drain(NODE, by="ops@h", why="disk", now=5.0)
    overview = read_overview(store, Settings(), time.time())
    assert {item.uuid: item.drained and item.drained.why for item in devices(overview)} == {
        "GPU-a": "fan",
        "GPU-b": None,
    }
    assert [item.drained and item.drained.why for item in nodes(overview)] == ["disk"]
    found = cluster_status(overview, Settings(), "0")
    assert (list(found.drained), found.state) == (["device GPU-a", "node node-1"], "ok")


def test_what_another_version_wrote_is_named(drains: Drains, store: StatusStore, client: redis.Redis) -> None:
    client.hset(store.keys.drained(), "device:GPU-a", "{}")
    with pytest.raises(UnreadableStatusError, match="celeray undrain device GPU-a"):
        read_drained(store.client, store.keys)
    assert drains.undrain(DEVICE, by="ops@h", now=5.0).changed
    assert read_drained(store.client, store.keys) == Drained()


def test_two_operators_at_once_leave_one_record_of_one_change(drains: Drains, store: StatusStore) -> None:
    changes = []
    threads = [
        threading.Thread(target=lambda: changes.append(drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(change.changed for change in changes) == [False] * 7 + [True]
    assert len(trail(store)) == 1


def test_a_bridge_reads_it_at_its_start_and_hears_of_changes(
    drains: Drains, store: StatusStore, redis_url: str
) -> None:
    drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)
    changed = threading.Event()
    watch = DrainWatch(lambda: redis.Redis.from_url(redis_url), store.keys, changed.set)
    assert watch.newest is None
    watch.start()
    try:
        assert changed.wait(DEADLINE_S)
        assert watch.newest is not None
        assert list(watch.newest.devices) == ["GPU-a"]
        changed.clear()
        drains.undrain(DEVICE, by="ops@h", now=6.0)
        assert changed.wait(DEADLINE_S)
        assert watch.newest == Drained()
    finally:
        watch.stop()
    assert not watch.is_alive()


def test_what_was_read_last_counts_while_redis_is_away(store: StatusStore, drains: Drains) -> None:
    drains.drain(DEVICE, by="ops@h", why="fan", now=5.0)
    watch = DrainWatch(lambda: store.client, store.keys, lambda: None)
    watch.read_once(store.client)
    before = watch.newest
    with redis.Redis(host="127.0.0.1", port=1) as nobody:
        watch.read_once(nobody)
        watch.read_once(nobody)
    assert watch.newest is before
    watch.read_once(store.client)
    assert watch.newest is before, "nothing changed, so nothing is told"
