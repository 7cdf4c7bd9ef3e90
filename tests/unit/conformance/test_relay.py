"""Log records and received messages travel over loopback, and are handled before the sender goes on."""

from __future__ import annotations

import json
import logging
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.signals import task_received
from kombu.message import Message

from tests.conformance.relay import RelayHandler, RelayServer, record_fields


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("relayed", set_as_current=False)

    @app.task(name="relayed.task", shared=False)
    def nothing() -> None: ...

    yield app
    app.close()


@pytest.fixture
def server(app: Celery) -> Iterator[RelayServer]:
    server = RelayServer(app)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def handler(server: RelayServer) -> Iterator[RelayHandler]:
    handler = RelayHandler(server.address)
    yield handler
    handler.close()


def record(msg: str, *args: Any, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord(
        "relayed.logger", logging.INFO, __file__, 1, msg, args, fields.pop("exc_info", None)
    )
    made.__dict__.update(fields)
    return made


def test_a_record_is_handled_before_emit_returns(
    handler: RelayHandler, caplog: pytest.LogCaptureFixture
) -> None:
    handler.emit(record("%s of %s", "one", "two", data={"id": "x"}))
    (seen,) = caplog.records
    assert (seen.getMessage(), seen.msg, seen.data) == ("one of two", "%s of %s", {"id": "x"})  # type: ignore[attr-defined]


def test_arguments_that_are_no_json_travel_as_the_finished_message() -> None:
    fields = record_fields(record("it is %r", {1, 2}, odd=object()))
    assert (fields["msg"], fields["args"]) == ("it is {1, 2}", None)
    assert "odd" not in fields
    json.dumps(fields)


def test_a_traceback_travels_as_text() -> None:
    try:
        raise ValueError("deliberate")
    except ValueError:
        fields = record_fields(record("failed", exc_info=sys.exc_info()))
    assert fields["exc_info"] is None
    assert "ValueError: deliberate" in fields["exc_text"]


def message(app: Celery, task: str = "relayed.task") -> Message:
    task_id = str(uuid.uuid4())
    built = app.amqp.as_task_v2(task_id, task, args=(1,), stamped_headers=["stamp"], stamp=42)
    return Message(
        body=json.dumps(built.body),
        headers=built.headers,
        properties=built.properties,
        delivery_info={"exchange": "", "routing_key": "celery"},
        content_type="application/json",
        content_encoding="utf-8",
    )


def test_a_received_message_reaches_signal_receivers_as_a_request(
    app: Celery, server: RelayServer, handler: RelayHandler
) -> None:
    seen: list[Any] = []

    def receiver(request: Any, **_: Any) -> None:
        seen.append(request)

    sent = message(app)
    task_received.connect(receiver)
    try:
        handler.send_received(sent)
    finally:
        task_received.disconnect(receiver)
    assert server.faults == []
    (request,) = seen
    assert request.id == sent.headers["id"]
    assert request.stamps == {"stamp": 42}
    assert list(request.args) == [1]


def test_what_cannot_be_handled_is_kept_as_a_fault_and_acknowledged(
    app: Celery, server: RelayServer, handler: RelayHandler
) -> None:
    handler.send_received(message(app, task="nobody.knows"))
    (fault,) = server.faults
    assert "nobody.knows" in fault


def test_a_test_process_that_has_gone_is_no_error(app: Celery) -> None:
    server = RelayServer(app)
    server.server_close()
    RelayHandler(server.address).emit(record("to nobody"))
