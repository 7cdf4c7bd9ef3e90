"""Keepers beside each other, and a keeper through a promotion."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celeray.scheduler.broker import broker_redis
from celeray.scheduler.duties.keeper import Keeper
from celeray.scheduler.keepers import read_keepers
from celeray.scheduler.keys import Keys
from tests.integration.scheduler.transport.test_failover import MASTER, Replicated, replicated

__all__ = ["replicated"]
KEYS = Keys()


class Counted:
    """A duty that only counts, and fails when told to."""

    def __init__(self, name: str = "counted", every_s: float = 60.0) -> None:
        self.name = name
        self.every_s = every_s
        self.runs = 0
        self.fails_with: Exception | None = None

    def run_once(self, now: float) -> str:
        assert now > 1e9
        if self.fails_with:
            raise self.fails_with
        self.runs += 1
        return f"run {self.runs}"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def test_what_one_keeper_has_done_the_other_leaves_out(client: Any) -> None:
    duty = Counted()
    first, second = Keeper(client, KEYS, [duty]), Keeper(client, KEYS, [duty])
    assert first.run_due() == {"counted": "run 1"}
    assert first.run_due() == second.run_due() == {}
    client.delete(KEYS.duty("counted"))
    # Its time comes in a minute; another keeper, which starts now, does it.
    assert first.run_due() == second.run_due() == {}
    assert Keeper(client, KEYS, [duty]).run_due() == {"counted": "run 2"}
    assert 0 < client.pttl(KEYS.duty("counted")) <= 60_000
    assert first.run_each() == {"counted": "run 3"}


def test_a_duty_that_fails_does_not_keep_others_from_being_done(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = Counted("broken"), Counted("good")
    broken.fails_with = ZeroDivisionError("by nothing")
    assert Keeper(client, KEYS, [broken, good]).run_due() == {"broken": "failed", "good": "run 1"}
    assert "duty broken failed" in caplog.text


def test_heartbeats_and_a_clean_end(client: Any) -> None:
    keeper = Keeper(client, KEYS, [])
    alive = []

    def wait(_: float) -> bool:
        alive.append([(item.name, item.up) for item in read_keepers(client, KEYS)])
        return len(alive) == 3

    keeper.run(wait)
    assert alive == [[], [(keeper.name, True)], [(keeper.name, True)]]
    assert read_keepers(client, KEYS) == ()


def test_the_gone_are_shown_only_where_none_is_alive(client: Any) -> None:
    gone, keeper = Keeper(client, KEYS, []), Keeper(client, KEYS, [])
    gone.run_due()
    client.zincrby(KEYS.keepers(), -60, gone.name)
    [shown] = read_keepers(client, KEYS)
    assert (shown.name, shown.up) == (gone.name, False)
    assert 60 <= shown.age_s < 100
    keeper.run_due()
    assert [item.name for item in read_keepers(client, KEYS)] == [keeper.name]
    keeper.run(lambda _: True)
    client.zincrby(KEYS.keepers(), -3600, gone.name)
    assert read_keepers(client, KEYS) == ()


def test_it_backs_off_from_a_demoted_master_and_goes_on(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    duty = Counted(every_s=0.001)
    keeper = Keeper(client, KEYS, [duty])
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 2:
            client.replicaof("127.0.0.1", "1")
        if len(pauses) == 5:
            client.replicaof("NO", "ONE")
        return len(pauses) == 7

    try:
        keeper.run(wait)
    finally:
        client.replicaof("NO", "ONE")
    assert pauses[:2] == [0.0, 1.0]
    assert all(
        longest / 2 <= pause <= longest for pause, longest in zip(pauses[2:5], (0.5, 1, 2), strict=True)
    )
    assert pauses[5] == 1.0
    assert duty.runs >= 2
    assert "Redis is back after 3 rounds" in caplog.text


def test_it_finds_the_promoted_master(replicated: Replicated) -> None:
    app = Celery("kept", broker=replicated.url, set_as_current=False)
    app.conf.broker_transport_options = {"master_name": MASTER}
    duty = Counted(every_s=0.001)
    keeper = Keeper(broker_redis(app), KEYS, [duty])
    deadline = time.monotonic() + 60
    stopped = False

    def wait(seconds: float) -> bool:
        nonlocal stopped
        assert time.monotonic() < deadline
        if duty.runs and not stopped:
            stopped = True
            replicated.master.stop()
        time.sleep(min(seconds, 0.2))
        if duty.runs < 2:
            return False
        with redis.Redis(port=replicated.replica.port) as promoted:
            assert [item.name for item in read_keepers(promoted, KEYS)] == [keeper.name]
        return True

    keeper.run(wait)
    with redis.Redis(port=replicated.replica.port) as promoted:
        assert promoted.info("replication")["role"] == "master"  # type: ignore[index]
        assert read_keepers(promoted, KEYS) == ()
    app.close()


def test_any_number_may_run_at_once(client: Any) -> None:
    duty = Counted()
    keepers = [Keeper(client, KEYS, [duty]) for _ in range(8)]
    threads = [threading.Thread(target=keeper.run_due) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert duty.runs == 1
    assert len(read_keepers(client, KEYS)) == 8
