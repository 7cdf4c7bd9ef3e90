"""Messages that a worker can receive and not run, one of each kind, as bytes on a list of the broker."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgpack
import redis

from celeray.scheduler.parked import ParkReason

UNKNOWN = "celeray.tests.nowhere"
HELD_KEYS = ("unacked", "unacked_index", "celeray:leases", "celeray:lease-deadlines", "celeray:begun")

Envelope = dict[str, Any]
Change = Callable[[Envelope], None]


def _body(raw: bytes) -> Change:
    return lambda envelope: envelope.update(body=base64.b64encode(raw).decode())


def _of_type(content_type: str, encoding: str = "utf-8") -> Change:
    return lambda envelope: envelope.update({"content-type": content_type, "content-encoding": encoding})


def _headers(**values: Any) -> Change:
    return lambda envelope: envelope["headers"].update(values)


def _without(*names: str) -> Change:
    return lambda envelope: [envelope["headers"].pop(name) for name in names] and None


KINDS: dict[str, tuple[ParkReason, tuple[Change, ...]]] = {
    "no JSON": (ParkReason.UNDECODABLE, (_body(b"{not json"),)),
    "no UTF-8": (ParkReason.UNDECODABLE, (_body(b'[["\xff"], {}, {}]'),)),
    "broken compression": (ParkReason.UNDECODABLE, (_headers(compression="application/x-gzip"),)),
    "pickle": (ParkReason.CONTENT_TYPE, (_of_type("application/x-python-serialize", "binary"),)),
    "no such content type": (ParkReason.CONTENT_TYPE, (_of_type("application/x-nothing"),)),
    "no such encoding": (ParkReason.CONTENT_TYPE, (_of_type("application/data", "klingon"),)),
    "no such compression": (ParkReason.CONTENT_TYPE, (_headers(compression="application/x-nothing"),)),
    "unknown task": (ParkReason.UNKNOWN_TASK, (_headers(task=UNKNOWN),)),
    "unknown task, protocol 1": (
        ParkReason.UNKNOWN_TASK,
        (_without("task", "id"), _body(json.dumps({"task": UNKNOWN, "id": "p1", "args": []}).encode())),
    ),
    "names no task": (ParkReason.BAD_MESSAGE, (_without("task", "id"), _body(b'{"x": 1}'))),
    "no object at all": (ParkReason.BAD_MESSAGE, (_without("task", "id"), _body(b"[1, 2]"))),
    "no id": (ParkReason.BAD_MESSAGE, (_without("id"),)),
    "no id, unknown task": (ParkReason.BAD_MESSAGE, (_without("id"), _headers(task=UNKNOWN))),
    "task name is a list": (ParkReason.BAD_MESSAGE, (_headers(task=["a"]),)),
    "eta is no time": (ParkReason.BAD_MESSAGE, (_headers(eta="tomorrow"),)),
    "body of two": (ParkReason.BAD_MESSAGE, (_body(b"[[], {}]"),)),
    "body is null": (ParkReason.BAD_MESSAGE, (_body(b"null"),)),
    "kwargs are a list": (ParkReason.BAD_MESSAGE, (_body(b"[[], [], {}]"),)),
    "embed is a list": (ParkReason.BAD_MESSAGE, (_body(b"[[], {}, [1]]"),)),
}


def make(kind: str, task: str, queue: str) -> tuple[str, bytes]:
    """Delivery tag and bytes. Its task id, where it has one, is the tag too."""
    tag = str(uuid.uuid4())
    envelope: Envelope = {
        "body": base64.b64encode(b"[[], {}, {}]").decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": tag, "note": []},
        "properties": {
            "correlation_id": tag,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 5,
            "body_encoding": "base64",
            "delivery_tag": tag,
        },
    }
    for change in KINDS[kind][1]:
        change(envelope)
    return tag, json.dumps(envelope).encode()


def check_parked(url: str, task: str, queue: str, worker: str, deadline_s: float = 15.0) -> dict[str, str]:
    """Send one of each kind to a running worker. Every one is parked, as it was, and nothing is held any more.

    Returns:
        The delivery tag of each kind.
    """
    made = {kind: make(kind, task, queue) for kind in KINDS}
    with redis.Redis.from_url(url) as client:
        client.lpush(queue, *(raw for _, raw in made.values()))
        end = time.monotonic() + deadline_s
        while (
            client.hlen("celeray:parked") < len(made) or any(_held(client).values())
        ) and time.monotonic() < end:
            time.sleep(0.05)
        found = {
            key.decode(): {name.decode(): value for name, value in msgpack.unpackb(record, raw=True).items()}
            for key, record in client.hgetall("celeray:parked").items()
        }
        assert {kind for kind, (tag, _) in made.items() if tag not in found} == set(), "these were dropped"
        assert not any(_held(client).values()), _held(client)
        assert client.llen(queue) == 0
    for kind, (tag, raw) in made.items():
        record = found[tag]
        assert record["message"] == raw, kind
        assert record["reason"].decode() == KINDS[kind][0], (kind, record["detail"])
        assert record["detail"].decode().endswith(f" [{worker}]"), (kind, record["detail"])
    return {kind: tag for kind, (tag, _) in made.items()}


def _held(client: Any) -> dict[str, int]:
    return {key: client.zcard(key) if client.type(key) == b"zset" else client.hlen(key) for key in HELD_KEYS}
