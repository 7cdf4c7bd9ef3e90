"""What Celery's embedded worker shares with a test through memory, carried over loopback instead.

The worker's processes send log records and the messages of `task_received`; the test process handles each and only
then acknowledges it. So a test sees both before the worker goes on, as it does with a worker that is its own thread.

Wire: one JSON object a line to the test process, one empty line back when it is handled.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.signals import task_received
from celery.worker.request import Request
from kombu.message import Message

ADDRESS_VARIABLE = "CONFORMANCE_RELAY"
ACK_TIMEOUT_S = 30.0
MESSAGE_FIELDS = ("headers", "properties", "delivery_info", "content_type", "content_encoding")


class RelayServer(socketserver.ThreadingTCPServer):
    """The test process's end: hands records to its loggers and received messages to its signal receivers."""

    daemon_threads = True

    def __init__(self, app: Celery) -> None:
        super().__init__(("127.0.0.1", 0), _RelayConnection)
        self.app = app
        self.faults: list[str] = []
        """Items that could not be handled. Celery's signals keep the errors of their receivers to themselves."""

    def dispatch(self, item: dict[str, Any]) -> None:
        if item["kind"] == "log":
            _handle_log(item["record"])
        else:
            _handle_received(self.app, item)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="conformance-relay", daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _RelayConnection(socketserver.StreamRequestHandler):
    server: RelayServer

    def handle(self) -> None:
        for line in self.rfile:
            try:
                self.server.dispatch(json.loads(line))
            except Exception as error:  # noqa: BLE001 - every one is reported, and the worker must go on
                self.server.faults.append(f"{line[:200]!r}: {error!r}")
            self.wfile.write(b"\n")


def _handle_log(fields: dict[str, Any]) -> None:
    if isinstance(fields["args"], list):
        fields["args"] = tuple(fields["args"])
    record = logging.makeLogRecord(fields)
    logging.getLogger(record.name).handle(record)


def _handle_received(app: Celery, item: Mapping[str, Any]) -> None:
    fields = {name: item[name] for name in MESSAGE_FIELDS}
    # Whether its content is acceptable was the worker's to decide, before it sent the signal.
    message = Message(body=base64.b64decode(item["body"]), accept={item["content_type"]}, **fields)
    task_received.send(sender=None, request=Request(message, app=app))


class RelayHandler(logging.Handler):
    """A worker process's end, for `task_received` too. One connection a process: a forked child opens its own."""

    def __init__(self, address: str) -> None:
        super().__init__()
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._connection: tuple[int, socket.socket] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._deliver({"kind": "log", "record": record_fields(record)})

    def send_received(self, message: Message) -> None:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        fields = {name: getattr(message, name) for name in MESSAGE_FIELDS}
        item = {"kind": "received", "body": base64.b64encode(body).decode(), **fields}
        self.acquire()
        try:
            self._deliver(item)
        finally:
            self.release()

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _disconnect(self) -> None:
        known, self._connection = self._connection, None
        if known is not None:
            known[1].close()

    def _deliver(self, item: Mapping[str, Any]) -> None:
        """Send and wait for the acknowledgement. A test process that has gone is no error of the worker's."""
        try:
            connection = self._connected()
            connection.sendall(json.dumps(item).encode() + b"\n")
            if not connection.recv(1):
                self._disconnect()
        except OSError:
            self._disconnect()

    def _connected(self) -> socket.socket:
        if self._connection is None or self._connection[0] != os.getpid():
            self._disconnect()
            self._connection = (os.getpid(), socket.create_connection(self._address, ACK_TIMEOUT_S))
        return self._connection[1]


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record as JSON: template and arguments apart where they allow it, else the finished message."""
    fields = dict(record.__dict__)
    if fields["exc_info"]:
        fields["exc_text"] = logging.Formatter().formatException(fields["exc_info"])
    fields["exc_info"] = None
    if not _is_json({"msg": fields["msg"], "args": fields["args"]}):
        fields |= {"msg": record.getMessage(), "args": None}
    return {name: value for name, value in fields.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def install_handler(address: str) -> Callable[[Message], None]:
    """Relay this process's records from now on. Safe to call twice. Returns the sender of received messages."""
    root = logging.getLogger()
    handler = next((known for known in root.handlers if isinstance(known, RelayHandler)), None)
    if handler is None:
        handler = RelayHandler(address)
        root.addHandler(handler)
    return handler.send_received
