"""A real Sentinel, a promotion, and a server that goes away."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Exchange, Queue

from celeray.scheduler.embedded_redis import EmbeddedRedis, find_server, free_port
from celeray.scheduler.transport.channel import SentinelChannel

QUEUE = Queue("q", Exchange(""), routing_key="q")
MASTER = "main"


class Replicated:
    """A master, a replica, and one Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.master = EmbeddedRedis(folder / "master")
        self.replica = EmbeddedRedis(
            folder / "replica", options=("--replicaof", "127.0.0.1", str(self.master.port))
        )
        self.port = free_port()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
        )
        self._sentinel: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self._sentinel = subprocess.Popen(
            [find_server(), str(self._config), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, *command: str) -> Any:
        with redis.Redis(port=self.port) as client:
            return client.execute_command("SENTINEL", *command)

    def fail_over(self) -> bool:
        """Ask for a planned failover. False where the sentinel has not heard of the replica for a while."""
        try:
            self.ask("failover", MASTER)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGOODSLAVE"):
                raise
            return False
        return True

    def has_changed_places(self) -> bool:
        """The replica is master, and the old master follows it. A server that changes its role drops its clients."""
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(port=self.replica.port) as new,
            redis.Redis(port=self.master.port) as old,
        ):
            promoted = new.info("replication")
            demoted = old.info("replication")
            return (
                promoted["role"] == "master"
                and demoted["role"] == "slave"
                and promoted["connected_slaves"] == 1
            )
        return False

    def replica_is_known(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            with redis.Redis(port=self.replica.port) as client:
                synced = client.info("replication").get("master_link_status") == "up"
            return synced and len(self.ask("replicas", MASTER)) == 1
        return False

    def stop(self) -> None:
        if self._sentinel is not None:
            self._sentinel.terminate()
            self._sentinel.wait(10)
        self.replica.stop()
        self.master.stop()


@pytest.fixture
def replicated(tmp_path: Path, eventually: Any) -> Iterator[Replicated]:
    made = Replicated(tmp_path)
    try:
        made.start()
        eventually(made.replica_is_known)
        yield made
    finally:
        made.stop()


def connect(url: str, **options: Any) -> Connection:
    return Connection(
        url,
        transport="celeray.scheduler.transport:SentinelTransport",
        transport_options={"master_name": MASTER, "lease_s": 2, **options},
    )


def drained(url: str, count: int, deadline_s: float = 40.0) -> list[Any]:
    """Messages consumed and acked by a worker that connects again whenever its connection is lost."""
    got: list[Any] = []
    deadline = time.monotonic() + deadline_s

    def take(message: Any) -> None:
        message.ack()
        got.append(message.decode())

    while len(got) < count and time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError, OSError), connect(url) as connection:
            connection.ensure_connection(max_retries=20, interval_start=0.1, interval_step=0.1)
            with connection.Consumer(QUEUE, on_message=take):
                while len(got) < count and time.monotonic() < deadline:
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=1)
    return got


@pytest.mark.timeout(150)
def test_a_promotion_loses_nothing_that_the_replica_had(replicated: Replicated, eventually: Any) -> None:
    with connect(replicated.url) as holder:
        assert isinstance(holder.default_channel, SentinelChannel)
        with holder.Producer() as producer:
            for number in range(20):
                producer.publish(number, routing_key="q")
        held = [holder.default_channel.basic_get("q") for _ in range(5)]
        assert [message.decode() for message in held] == [0, 1, 2, 3, 4]
        keeper = holder.default_channel.lease_keeper
        with redis.Redis(port=replicated.replica.port) as replica:
            eventually(lambda: replica.hlen("unacked") == 5)
            eventually(replicated.fail_over, 40)
            # Until then the old master takes acks that nobody will know of; Redis promises no more without WAIT.
            eventually(replicated.has_changed_places, 40)
            # The holder lives: its leases are renewed on the new master, and nothing of them is restored.
            held[0].ack()
            eventually(lambda: replica.hlen("unacked") == 4, 40)
            keeper.run_once()
            assert replica.zcard("celeray:lease-deadlines") == 4
            assert sorted(drained(replicated.url, 15)) == list(range(5, 20))
            assert replica.hlen("unacked") == 4
            for message in held[1:]:
                message.ack()
            assert replica.hlen("unacked") == 0


def test_a_server_that_restarts(tmp_path: Path, eventually: Any) -> None:
    with EmbeddedRedis(tmp_path, options=("--appendfsync", "always")) as server:
        leased = "celeray.scheduler.transport:Transport"
        with Connection(server.url, transport=leased, transport_options={"lease_s": 0.6}) as connection:
            with connection.Producer() as producer:
                producer.publish("lives", routing_key="q")
                producer.publish("dies", routing_key="q")
            kept = connection.default_channel.basic_get("q")
            dead = Connection(server.url, transport=leased, transport_options={"lease_s": 0.6})
            assert dead.default_channel.basic_get("q").decode() == "dies"
            # As if its process were gone: nobody renews.
            dead.default_channel.leases._held.clear()
            server.stop()
            time.sleep(1)
            server.start()
            with redis.Redis(port=server.port) as client:
                eventually(lambda: client.llen("q") == 1)
                assert client.hlen("unacked") == 1
                kept.ack()
                eventually(lambda: client.hlen("unacked") == 0)
            dead.close()


def test_a_demoted_master_is_a_lost_connection(side: Any, broker: Any) -> None:
    consumer = side()
    consumer.publish(1)
    consumer.publish(2)
    consumer.consume(prefetch=1)
    consumer.drain(1)
    broker.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        consumer.got[0].ack()
        assert consumer.channel.leases.has_settlements
        with pytest.raises(consumer.connection.connection_errors, match="READONLY"):
            consumer.drain(1)
    finally:
        broker.client.execute_command("REPLICAOF", "NO", "ONE")
    assert consumer.drain(1) == [2]
    consumer.got[1].ack()
    assert broker.nothing_held()


def test_a_claim_that_stays_without_an_answer_ends_its_connection(
    side: Any, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = side(idle_check_s=0.05)
    consumer.consume()
    consumer.turn(0.2)
    broker.client.execute_command("CLIENT", "PAUSE", "1500")
    for _ in range(3):
        consumer.turn(0.1)
    channel = consumer.channel
    assert channel._in_poll
    monkeypatch.setattr(channel, "_brpop_sent_at", channel._brpop_sent_at - 60)
    channel.connection.cycle.maybe_check_brpop_health()
    assert channel.client.connection._sock is None
    assert not channel._in_poll
    consumer.publish("after")
    assert consumer.drain() == ["after"]
