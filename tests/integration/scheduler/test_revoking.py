"""Revokes that are kept in Redis: written by clients and workers, read by workers that were down, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.worker import state
from kombu.exceptions import OperationalError

import celeray
from celeray.scheduler.keepers import server_time
from celeray.scheduler.keys import Keys
from celeray.scheduler.revoking import OVERLAP_S, REVOKE_TTL_S, RevokeBook, merge, write_down

pytestmark = pytest.mark.unmeasured

TIMEOUT_S = 60
OPTIONS = ("-P", "solo", "-Q", "cpu.analysis", "-I", "tests.apps.front_work")


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def book(client: Any) -> RevokeBook:
    return RevokeBook(client, Keys())


@pytest.fixture
def own_state() -> Iterator[None]:
    state.reset_state()
    yield
    state.reset_state()


def test_only_what_is_newer_is_read(book: RevokeBook, client: Any) -> None:
    now = server_time(client)
    book.add(["old"], now=now - 100)
    book.add(["new", "new"], {"film": ["x", "y"], "user": "u"})
    everything = book.read()
    assert everything.task_ids == ("old", "new")
    assert set(everything.stamps) == {("film", "x"), ("film", "y"), ("user", "u")}
    assert book.read(everything.read_at).task_ids == ("new",)
    assert book.read(everything.read_at + 3600).task_ids == ("new",), "a clock that was ahead hides nothing"
    assert book.read(now - 100 + OVERLAP_S).task_ids == ("old", "new")


def test_they_are_forgotten_after_three_hours(book: RevokeBook, client: Any) -> None:
    now = server_time(client)
    book.add(["a"], {"film": "x"}, now=now)
    book.add(["b"], now=now + 60)
    assert book.trim(now + REVOKE_TTL_S - 1) == 0
    assert book.trim(now + REVOKE_TTL_S + 1) == 2
    assert client.zrange("celeray:revoked", 0, -1) == [b"b"]
    assert client.zcard("celeray:revoked:stamps") == 0
    # Without a keeper the next revoke does so, and Redis itself in the end.
    book.add(["c"], now=now + 61 + REVOKE_TTL_S)
    assert client.zrange("celeray:revoked", 0, -1) == [b"c"]
    assert 0 < client.ttl("celeray:revoked") <= REVOKE_TTL_S


def test_they_are_bounded(book: RevokeBook, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeray.scheduler.revoking.REVOKES_MAX", 3)
    for number in range(5):
        book.add([f"t{number}"])
    assert client.zrange("celeray:revoked", 0, -1) == [b"t2", b"t3", b"t4"]
    assert book.add([]) == 0


@pytest.mark.usefixtures("own_state")
def test_merging_twice_changes_nothing(book: RevokeBook) -> None:
    state.revoked_stamps["film"] = "x"
    book.add(["a"], {"film": ["x", "y"]})
    for _ in range(2):
        merge(book.read())
    assert list(state.revoked) == ["a"]
    assert state.revoked_stamps == {"film": ["x", "y"]}


@pytest.mark.parametrize("prefix", ["", "film:"])
def test_an_installed_app_writes_them_down(redis_url: str, client: Any, prefix: str) -> None:
    app = Celery("own", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": prefix}
    celeray.install(app)
    app.control.revoke("one", terminate=True, signal="KILL")
    app.control.revoke(["two", "three"])
    app.control.terminate("four")
    app.AsyncResult("five").revoke()
    app.control.revoke_by_stamped_headers({"film": ["x"]})
    kept = {item.decode() for item in client.zrange(f"{prefix}celeray:revoked", 0, -1)}
    assert kept == {"one", "two", "three", "four", "five"}
    assert client.zrange(f"{prefix}celeray:revoked:stamps", 0, -1) == [b'["film", "x"]']
    app.close()


def test_on_amqp_a_revoke_is_celerys_alone() -> None:
    app = Celery("own", broker="amqp://127.0.0.1:1//", set_as_current=False)
    celeray.install(app)
    assert app.control.revokes is None
    write_down(app, "one")
    app.close()


def test_a_broker_that_does_not_answer_is_told_to_the_caller() -> None:
    app = Celery("own", broker="redis://127.0.0.1:1/0", set_as_current=False)
    celeray.install(app)
    with pytest.raises(OperationalError, match="could not be written down"):
        app.control.revoke("one")
    app.close()


@pytest.mark.slow
def test_a_worker_that_was_down_honours_them(
    front: Celery,
    stock: Celery,
    client: Any,
    book: RevokeBook,
    start_worker: Any,
    eventually: Any,
) -> None:
    sent = [front.send_task("front.work", ["ran", 0], queue="cpu.analysis") for _ in range(2)]
    sent[0].revoke()
    start_worker(*OPTIONS)
    with pytest.raises(TaskRevokedError):
        sent[0].get(timeout=TIMEOUT_S)
    assert sent[1].get(timeout=TIMEOUT_S)
    assert client.get("ran") == b"1"
    # From a client that knows nothing of celeray: the worker writes it down.
    stock.control.revoke("of-stock")
    stock.control.broadcast("terminate", arguments={"signal": "TERM", "task_id": ["of-stock-2"]})
    stock.control.revoke_by_stamped_headers({"film": "x"})
    eventually(lambda: {b"of-stock", b"of-stock-2"} <= set(client.zrange("celeray:revoked", 0, -1)))
    eventually(lambda: client.zrange("celeray:revoked:stamps", 0, -1) == [b'["film", "x"]'])
    # Nobody told the worker: it finds it.
    book.add(["found"])
    eventually(lambda: "found" in next(iter(stock.control.inspect(timeout=5).revoked().values())))
