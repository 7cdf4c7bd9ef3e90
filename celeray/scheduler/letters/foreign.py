"""Messages of a broker that is no Redis, as letters keep them and as they are published again. Pure.

A letter's message is JSON as kombu writes it on Redis, so that whatever reads and edits letters needs to know one shape
only. Of AMQP the body is kept byte for byte; headers and properties as the values that the client made of them.

Such a broker tells no lasting tag of a message, so an attempt is named by what travels in it: the header `celeray_tag`,
which is new with each message that a letter becomes, or else task id, Celery's retries and a digest of the body. A
message that comes twice has one tag.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from kombu.utils.json import JSONEncoder, dumps, loads

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import HEADER as ATTEMPTS
from celeray.scheduler.letters.envelope import UnreadableLetterError, body_of, read_envelope
from celeray.scheduler.letters.record import Parked, attempts_in, place_of
from celeray.scheduler.letters.tags import HEADER, PREFIX

UNKNOWN_QUEUE = "its queue is unknown; name a queue"
_TASK_ID, _TAG = re.compile(r"[!-~]{1,200}"), re.compile(r"[!-~]{1,300}")
"""What is taken as it is."""
_NUMBERED = re.compile(r"(.+)\.([1-9][0-9]{0,5})")
_OF_THE_TRANSPORT = frozenset({"application_headers", "body_encoding", "delivery_info", "delivery_tag"})
_NOT_KEPT = frozenset({"user_id", "priority", "content_type", "content_encoding"})
"""`user_id` names who published, and a broker refuses another's; the others have members of their own."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is published of a letter."""

    queue: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]
    priority: int | None
    redriven: bool
    """An operator sends it, and no retry policy."""


def tag_of(message: Any) -> str:
    """The tag of a message of kombu: the same for each delivery of it, and for a copy that was published twice."""
    headers = message.headers
    tag, task_id, retries = headers.get(HEADER), headers.get("id"), headers.get("retries")
    if isinstance(tag, str) and _TAG.fullmatch(tag):
        return tag
    digest = hashlib.sha1(body_bytes(message), usedforsecurity=False).hexdigest()
    if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
        return digest
    return f"{task_id}-{retries if type(retries) is int else 0}-{digest[:8]}"


def may_have_come(message: Any) -> bool:
    """Whether the broker delivered it before, or somebody else may have published it twice."""
    raw = getattr(message, "_raw", None)
    # kombu's own transports note it beside the properties.
    requeued = isinstance(raw, dict) and raw.get("redelivered")
    return bool(message.delivery_info.get("redelivered") or requeued) or HEADER in message.headers


def tag_after(letter: str, at: float, *, redriven: bool) -> str:
    """The tag of the message that a letter becomes: the same however often it is published, and never another's.

    Args:
        at: when the letter was written, in seconds since the epoch. A task id may be used again, and its letters too.
    """
    plain = letter.removeprefix(PREFIX)
    found = _NUMBERED.fullmatch(plain)
    base, number = (found[1], int(found[2])) if found else (f"{plain}-{int(at * 1000):x}", 0)
    return f"{PREFIX if redriven else ''}{base}.{number + 1}"


def text_of(message: Any, tag: str) -> bytes:
    """The message as a letter keeps it.

    Args:
        message: of kombu, from any transport. One that was compressed is unpacked by now.
    """
    delivery, properties, headers = message.delivery_info, message.properties, dict(message.headers)
    if not message.errors:
        headers.pop("compression", None)
    kept = {key: value for key, value in properties.items() if key not in _OF_THE_TRANSPORT}
    document = {
        "body": base64.b64encode(body_bytes(message)).decode(),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": headers,
        "properties": {
            **kept,
            "body_encoding": "base64",
            "delivery_info": {key: str(delivery.get(key) or "") for key in ("exchange", "routing_key")},
            "delivery_tag": tag,
        },
    }
    return str(dumps(document, cls=_Encoder)).encode()


def body_bytes(message: Any) -> bytes:
    """The body as it was on the wire; py-amqp has decoded what names an encoding of text."""
    body = message.body
    if isinstance(body, str):
        try:
            return body.encode(message.content_encoding or "utf-8")
        except (LookupError, UnicodeError):
            return body.encode("utf-8", "surrogatepass")
    return bytes(body or b"")


def outgoing_of(letter: str, parked: Parked, keys: Keys) -> Outgoing:
    """What is published of a letter that is due.

    Args:
        letter: its id, as the field in Redis.

    Raises:
        UnreadableLetterError: no worker could read it, or nobody knows its queue.
    """
    envelope = read_envelope(parked.message)
    queue, _ = place_of(parked, keys)
    if queue is None:
        raise UnreadableLetterError(UNKNOWN_QUEUE)
    document = loads(envelope.text)
    properties, headers = document["properties"], dict(document["headers"])
    tag, priority = properties["delivery_tag"], properties.get("priority")
    # The tag is the letter's until a redrive gives it another one.
    redriven = tag != letter and tag.startswith(PREFIX)
    if redriven:
        headers.pop(ATTEMPTS, None)
    else:
        headers[ATTEMPTS] = attempts_in(parked, headers).header()
    headers[HEADER] = tag_after(letter, parked.at, redriven=redriven)
    left_out = _OF_THE_TRANSPORT | _NOT_KEPT
    return Outgoing(
        queue=queue,
        body=body_of(envelope.document) or b"",
        content_type=document.get("content-type"),
        content_encoding=document.get("content-encoding"),
        headers=headers,
        properties={key: value for key, value in properties.items() if key not in left_out},
        priority=priority if type(priority) is int else None,
        redriven=redriven,
    )


class _Encoder(JSONEncoder):
    """What JSON has no type for becomes text."""

    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except TypeError:
            return str(o)
