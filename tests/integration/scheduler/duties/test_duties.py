"""Each duty on a real Redis: what it does, that doing it again does nothing, and that no time is waited for."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celeray.scheduler.duties.due_etas import DueEtas
from celeray.scheduler.duties.duty import Duty
from celeray.scheduler.duties.expired_leases import ExpiredLeases
from celeray.scheduler.duties.gone_writers import GoneWriters
from celeray.scheduler.duties.old_revokes import OldRevokes
from celeray.scheduler.keepers import GONE_S, server_time, write_heartbeat
from celeray.scheduler.keys import Keys
from celeray.scheduler.revoking import REVOKE_TTL_S, RevokeBook
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.scheduling import FarEta, schedule
from tests.integration.scheduler.transport.conftest import STEPS, Broker, Side
from tests.integration.scheduler.transport.test_settling import expire
from tests.status_samples import bridge

pytestmark = pytest.mark.usefixtures("no_lease_threads")

KEYS = Keys()


@pytest.fixture
def broker(redis_url: str) -> Any:
    made = Broker(redis_url)
    yield made
    made.client.close()


@pytest.fixture
def worker(redis_url: str) -> Any:
    """Holds one message."""
    made = Side(redis_url)
    made.publish("x", n=0)
    made.got.append(made.get())
    yield made
    made.connection.close()


def leases(broker: Broker, **options: Any) -> Duty:
    made = LeaseOptions(**options)
    return ExpiredLeases(broker.client, KEYS, made, visibility_timeout_s=3600, priority_steps=STEPS)


def test_expired_leases_go_back(broker: Broker, worker: Side) -> None:
    duty, now = leases(broker), server_time(broker.client)
    assert duty.run_once(now) == "waits for one lease time, since Redis restarted or was promoted"
    broker.trust_server()
    # Leases know the server's clock only: no time given from outside ends one.
    assert duty.run_once(now + 10_000) == ""
    expire(broker)
    assert duty.run_once(now) == "1 messages put back"
    assert duty.run_once(now) == ""
    assert broker.headers() == [0]


def test_poison_is_parked_and_counted(broker: Broker, worker: Side) -> None:
    worker.channel.qos.begun(worker.got[0].delivery_tag)
    expire(broker)
    assert leases(broker, poison_after=1).run_once(0.0) == "1 parked"
    assert broker.parked()[0]["reason"] == b"poison"


def test_more_than_one_script_takes(broker: Broker, redis_url: str) -> None:
    crowd = Side(redis_url)
    for number in range(450):
        crowd.publish("x", n=number)
    crowd.consume()
    crowd.drain(450)
    expire(broker)
    assert leases(broker).run_once(0.0) == "450 messages put back"
    assert broker.client.llen("q") == 450
    crowd.connection.close()


def test_due_etas_go_back(broker: Broker, worker: Side) -> None:
    lease = worker.channel.leases.get(worker.got[0].delivery_tag)
    schedule(worker.channel.leases, [FarEta(lease, 60, "t", "{}")])
    duty, now = DueEtas(broker.client, KEYS), server_time(broker.client)
    assert duty.run_once(now + 59) == ""
    assert duty.run_once(now + 61) == "1 messages put back"
    assert duty.run_once(now + 61) == ""
    assert broker.headers() == [0]


def test_old_revokes_are_forgotten(broker: Broker) -> None:
    book = RevokeBook(broker.client, KEYS)
    book.add(["a"], now=1_000.0)
    duty = OldRevokes(book)
    assert duty.run_once(1_000.0 + REVOKE_TTL_S - 1) == ""
    assert duty.run_once(1_000.0 + REVOKE_TTL_S + 1) == "1 revokes forgotten"
    assert duty.run_once(1_000.0 + REVOKE_TTL_S + 1) == ""


def test_bridges_and_keepers_that_stopped_writing_are_forgotten(broker: Broker) -> None:
    client: redis.Redis = broker.client
    store, now = StatusStore(client), 1_000_000.0
    store.publish(bridge("b1", written_at=now), [])
    write_heartbeat(client, KEYS, "keeper", now)
    duty = GoneWriters(store)
    assert duty.run_once(now + GONE_S - 1) == ""
    assert (client.zcard(KEYS.bridges()), client.zcard(KEYS.keepers())) == (1, 1)
    assert duty.run_once(now + GONE_S + 1) == "1 keepers forgotten"
    assert (client.zcard(KEYS.bridges()), client.zcard(KEYS.keepers())) == (0, 0)
