"""The eta of a message is read as Celery reads it, whatever its zone and protocol."""

from __future__ import annotations

import json
import types
import uuid
from datetime import UTC, datetime, timedelta, timezone
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.solo import TaskPool
from celery.worker import state, strategy

from celeray.scheduler.etas import Eta, eta_of, shown

AHEAD = timedelta(hours=5)
ZONES = ("UTC", "Asia/Tokyo", "America/New_York")


def make_app(**conf: Any) -> Celery:
    app = Celery("etas", broker=f"memory://localhost/{uuid.uuid4()}", set_as_current=False, changes=conf)

    @app.task(shared=False, name="film.plain")
    def plain(*args: Any) -> None: ...

    return app


def message_with(app: Celery, eta: str | None, **headers: Any) -> Any:
    """As it is on the broker, with exactly this text."""
    app.send_task("film.plain", (1, "two"), queue="q", task_id="t1")
    message = app.connection_for_read().default_channel.basic_get("q")
    message.accept = {"application/json"}
    if app.conf.task_protocol == 1:
        body = message.decode()
        body["eta"] = eta
        message.body, message._decoded_cache = json.dumps(body), None
    else:
        message.headers |= {"eta": eta, **headers}
    return message


def celerys(app: Celery, message: Any) -> float:
    """When Celery's own strategy would call it, by the monotonic clock."""
    times: list[float] = []
    consumer: Any = types.SimpleNamespace(
        hostname="h",
        connection_errors=(),
        event_dispatcher=None,
        timer=types.SimpleNamespace(call_at=lambda at, *_, **__: times.append(at)),
        apply_eta_task=None,
        disable_rate_limits=True,
        task_buckets={},
        on_task_request=None,
        _limit_task=None,
        _limit_post_eta=None,
        pool=TaskPool(),
        controller=types.SimpleNamespace(state=state),
        qos=types.SimpleNamespace(increment_eventually=lambda: None),
    )
    handle = strategy.default(app.tasks["film.plain"], app, consumer)
    body = message.decode() if app.conf.task_protocol == 1 else None
    handle(message, body, lambda: None, lambda: None, [])
    state.reset_state()
    [at] = times
    return at


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("utc", [True, False])
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("written", ["naive", "Z", "+09:30", "-05:00"])
def test_as_celery_reads_it(protocol: int, utc: bool, zone: str, written: str) -> None:
    app = make_app(task_protocol=protocol, enable_utc=utc, timezone=zone)
    at = datetime.now(UTC) + AHEAD
    hours = {"+09:30": 9.5, "-05:00": -5}.get(written, 0)
    text = at.astimezone(timezone(timedelta(hours=hours))).isoformat()
    if written == "naive":
        text = text.removesuffix("+00:00")
    if written == "Z":
        text = text.replace("+00:00", "Z")
    message = message_with(app, text)
    found = eta_of(message, app)
    assert found is not None
    assert found.task_id == "t1"
    assert found.in_s + monotonic() == pytest.approx(celerys(app, message), abs=0.5)
    if written != "naive" and utc:
        assert found.in_s == pytest.approx(AHEAD.total_seconds(), abs=5)
    app.close()


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("eta", [None, "", "yesterday", "2026-13-45T00:00:00", 12, {"at": 1}])
def test_what_is_none_is_left_to_celery(protocol: int, eta: Any) -> None:
    app = make_app(task_protocol=protocol)
    assert eta_of(message_with(app, eta), app) is None
    app.close()


def test_an_id_that_is_no_text_is_left_to_celery() -> None:
    app = make_app()
    eta = (datetime.now(UTC) + AHEAD).isoformat()
    assert eta_of(message_with(app, eta, id=7), app) is None
    app.close()


def test_what_is_shown_of_it() -> None:
    app = make_app()
    message = message_with(app, None, argsrepr="(1, 'two')", kwargsrepr="{}")
    found = json.loads(shown(message, Eta("t1", "2030-01-01T00:00:00+00:00", 1.0)))
    assert found["eta"] == "2030-01-01T00:00:00+00:00"
    request = found["request"]
    assert (request["id"], request["name"], request["type"]) == ("t1", "film.plain", "film.plain")
    assert (request["args"], request["kwargs"]) == ("(1, 'two')", "{}")
    assert request["delivery_info"]["routing_key"] == "q"
    app.close()
