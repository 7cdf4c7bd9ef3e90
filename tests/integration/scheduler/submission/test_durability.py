"""A durable publish returns when replicas have the message, and says so loudly when they have not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

import celeray
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.submission.durability import NotReplicatedError
from tests.integration.scheduler.submission.conftest import Look


@pytest.fixture
def replica(
    redis_url: str, redis_server: Any, tmp_path: Path, eventually: Callable[..., Any]
) -> Iterator[Any]:
    """The pid of a real replica that is in step."""
    server = EmbeddedRedis(tmp_path / "replica")
    server.start()
    client: Any = redis.Redis.from_url(server.url)
    client.replicaof("127.0.0.1", redis_server.port)
    eventually(lambda: client.info("replication")["master_link_status"] == "up")
    pid = client.info("server")["process_id"]
    eventually(lambda: Look(redis_url).client.execute_command("WAIT", 1, 100) == 1)
    yield pid
    os.kill(pid, signal.SIGCONT)
    client.close()
    server.stop()


@pytest.mark.parametrize("transport", ["kombu", "leased"], indirect=True)
def test_it_waits_for_the_replica(make_app: Callable[..., Celery], look: Look, replica: int) -> None:
    app = make_app(durable_replicas=1, durable_timeout_s=5)
    render = app.tasks["film.render"]
    ids = [render.delay().id, celeray.submit_batch([render.s()], app).results[0].id]
    with pytest.raises(NotReplicatedError) as caught:
        render.apply_async(headers={"durable_replicas": 2}, retry=False, task_id="needs-two")
    assert (caught.value.wanted, caught.value.got) == (2, 1)
    assert isinstance(caught.value, OperationalError)
    assert look.ids() == [*ids, "needs-two"]


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_a_replica_that_stalls_fails_the_publish_and_a_retry_doubles_nothing(
    make_app: Callable[..., Celery], look: Look, replica: int
) -> None:
    app = make_app(durable_replicas=1, durable_timeout_s=0.1)
    render, cut = app.tasks["film.render"], app.tasks["film.cut"]
    first = cut.delay(1)
    psutil.Process(replica).suspend()
    with pytest.raises(NotReplicatedError, match="durable_replicas=1: 0 replicas"):
        # kombu publishes again on a new connection, which has written nothing but this.
        render.apply_async(task_id="once")
    with pytest.raises(NotReplicatedError):
        celeray.submit_batch([render.s()], app, batch_id="night", retry=False)
    with pytest.raises(NotReplicatedError):
        cut.apply_async((1,), retry=False)
    [_, _, batched] = look.ids()
    psutil.Process(replica).resume()
    app2 = make_app(durable_replicas=1, durable_timeout_s=20)
    assert app2.tasks["film.render"].apply_async(task_id="once").id == "once"
    assert (
        celeray.submit_batch([app2.tasks["film.render"].s()], app2, batch_id="night").results[0].id == batched
    )
    assert app2.tasks["film.cut"].delay(1).id == first.id
    assert look.ids() == [first.id, "once", batched]


def test_a_demoted_master_is_a_lost_connection(
    app: Celery, look: Look, replica: int, redis_server: Any, eventually: Callable[..., Any]
) -> None:
    """Which kombu connects anew for, and Sentinel then names the new master."""
    port = next(
        connection["port"]
        for key, connection in look.client.info("replication").items()
        if key.startswith("slave")
    )
    look.client.replicaof("127.0.0.1", port)
    try:
        eventually(lambda: look.client.info("replication")["role"] == "slave")
        with pytest.raises(OperationalError, match=r"(?i)read.?only"):
            app.tasks["film.cut"].apply_async(retry=False)
    finally:
        look.client.replicaof("NO", "ONE")
    assert app.tasks["film.cut"].delay().id == app.tasks["film.cut"].delay().id


def test_without_replicas_nothing_waits(app: Celery, look: Look) -> None:
    before = look.client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]
    app.tasks["film.render"].delay()
    app.tasks["film.render"].apply_async(headers={"durable_replicas": 0})
    after = look.client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]
    assert (after, len(look.ids())) == (before, 2)
