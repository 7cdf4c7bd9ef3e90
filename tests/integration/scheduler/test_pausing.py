"""The state of paused queues and the trail, in a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
import redis

from celeray.scheduler import audit
from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.errors import PauseUnsupportedError, UnknownQueueError
from celeray.scheduler.keys import Keys
from celeray.scheduler.overview import queue_statuses, read_overview
from celeray.scheduler.pausing import Pauses
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import BridgeQueue
from celeray.scheduler.status_store import StatusStore, UnreadableStatusError
from celeray.scheduler.suspensions import Pause
from celeray.scheduler.topology import BrokerKind
from tests.status_samples import bridge

pytestmark = pytest.mark.integration
SETTINGS = Settings(transport="leased")
QUEUE = "gpu.generation"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def store(client: redis.Redis) -> StatusStore:
    return StatusStore(client, keys=Keys(prefix="film:"))


@pytest.fixture
def pauses(store: StatusStore) -> Pauses:
    return Pauses(store, SETTINGS)


@pytest.fixture
def trail(store: StatusStore) -> AuditTrail:
    return AuditTrail(store.client, store.keys)


def actions(trail: AuditTrail) -> list[tuple[str, str, str, str, float]]:
    return [(item.action, item.target, item.by, item.why, item.at) for item in trail.page(500).records]


def test_the_field_is_the_queues_name_as_the_claim_reads_it(pauses: Pauses, client: redis.Redis) -> None:
    pauses.pause(QUEUE, by="a@h", why="x", now=1_700_000_000.123456)
    found = client.hgetall("film:celeray:paused")
    assert list(found) == [QUEUE.encode()]
    assert json.loads(found[QUEUE.encode()]) == {"by": "a@h", "at": 1_700_000_000.123456, "why": "x"}
    assert client.ttl("film:celeray:paused") == -1


def test_pause_again_and_resume_again(pauses: Pauses, trail: AuditTrail) -> None:
    first = pauses.pause(QUEUE, by="a@h", why="x", now=1.0)
    again = pauses.pause(QUEUE, by="b@h", why="x", now=2.0)
    other = pauses.pause(QUEUE, by="b@h", why="y", now=3.0)
    assert [change.changed for change in (first, again, other)] == [True, False, True]
    assert pauses.paused() == {QUEUE: Pause(by="b@h", at=1.0, why="y")}
    assert [pauses.resume(QUEUE, by="c@h", now=float(now)).changed for now in (4, 5)] == [True, False]
    assert pauses.paused() == {}
    assert actions(trail) == [
        ("resume", QUEUE, "c@h", "resumed", 4.0),
        ("pause", QUEUE, "b@h", "y", 3.0),
        ("pause", QUEUE, "a@h", "x", 1.0),
    ]


def test_state_and_record_are_one_transaction(pauses: Pauses, client: redis.Redis) -> None:
    with client.monitor() as monitor:
        pauses.pause(QUEUE, by="a@h", why="x", now=1.0)
        pauses.resume(QUEUE, by="a@h", now=2.0)
        seen: list[str] = []
        own = None
        while seen.count("EXEC") < 2:
            command = monitor.next_command()
            name = command["command"].split()[0]
            own = own or (command["client_port"] if name == "WATCH" else None)
            # Others may use the same Redis meanwhile.
            if command["client_port"] == own:
                seen.append(name)
    writes = [name for name in seen if name in ("WATCH", "MULTI", "HSET", "HDEL", "XADD", "EXEC")]
    assert writes == ["WATCH", "MULTI", "HSET", "XADD", "EXEC", "WATCH", "MULTI", "HDEL", "XADD", "EXEC"]


def test_operators_at_once_leave_one_pause_and_as_many_records_as_changes(
    pauses: Pauses, trail: AuditTrail
) -> None:
    changes = []

    def operate(number: int) -> None:
        for turn in range(10):
            changes.append(pauses.pause(QUEUE, by=f"u{number}", why="x", now=float(turn)).changed)
            changes.append(pauses.resume(QUEUE, by=f"u{number}", now=float(turn)).changed)

    threads = [threading.Thread(target=operate, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(changes) == 80
    recorded = actions(trail)[::-1]
    assert sum(changes) == len(recorded)
    # Each change follows its opposite: nobody paused what was paused, or resumed what ran.
    assert [item[0] for item in recorded] == ["pause", "resume"] * (len(recorded) // 2)
    assert pauses.paused() == {}


def test_unknown_queues(pauses: Pauses, store: StatusStore, client: redis.Redis) -> None:
    with pytest.raises(UnknownQueueError, match=r"'own\.queue'.*gpu\.generation"):
        pauses.pause("own.queue", by="a@h", why="x", now=1.0)
    with pytest.raises(UnknownQueueError, match=r"own\.queue"):
        pauses.resume("own.queue", by="a@h", now=1.0)
    assert not client.exists("film:celeray:paused", "film:celeray:audit")
    store.publish(bridge(queues=(BridgeQueue(name="own.queue"),)), [])
    assert pauses.pause("own.queue", by="a@h", why="x", now=1.0).changed
    store.retire("b1")
    # A pause outlives the bridge that named the queue, is shown, and can be taken back.
    shown = {
        queue.name: queue.paused for queue in queue_statuses(read_overview(store, SETTINGS, 2.0), SETTINGS)
    }
    assert shown["own.queue"] == Pause(by="a@h", at=1.0, why="x")
    assert pauses.resume("own.queue", by="a@h", now=2.0).changed


def test_kombus_transport_and_other_brokers(store: StatusStore, pauses: Pauses) -> None:
    stock = Pauses(store, Settings(transport="kombu"))
    with pytest.raises(PauseUnsupportedError, match=r"transport='kombu'.*\"leased\""):
        stock.pause(QUEUE, by="a@h", why="x", now=1.0)
    pauses.pause(QUEUE, by="a@h", why="x", now=1.0)
    assert stock.resume(QUEUE, by="a@h", now=2.0).changed
    for kind in (BrokerKind.AMQP, BrokerKind.EMULATED):
        other = Pauses(store, SETTINGS, kind)
        for change in (
            lambda other=other: other.pause(QUEUE, by="a@h", why="x", now=1.0),
            lambda other=other: other.resume(QUEUE, by="a@h", now=1.0),
        ):
            with pytest.raises(PauseUnsupportedError, match="Redis only"):
                change()


def test_what_another_version_wrote_is_said_and_can_be_resumed(pauses: Pauses, client: redis.Redis) -> None:
    client.hset("film:celeray:paused", QUEUE, "{}")
    for read in (pauses.paused, lambda: pauses.pause(QUEUE, by="a@h", why="x", now=1.0)):
        with pytest.raises(UnreadableStatusError, match=f"celeray resume {QUEUE}"):
            read()
    assert pauses.resume(QUEUE, by="a@h", now=2.0).changed
    assert pauses.paused() == {}


def test_the_trail_is_capped(
    pauses: Pauses, trail: AuditTrail, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RECORDS_MAX", 100)
    for number in range(500):
        pauses.pause(QUEUE, by="a@h", why=str(number), now=float(number))
    # Redis drops whole nodes of 100 entries.
    assert 100 <= client.xlen("film:celeray:audit") <= 300
    assert actions(trail)[0][3] == "499"
