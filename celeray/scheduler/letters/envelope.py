"""The message of a letter: whether kombu can read it, and its text with a new delivery tag or another place. Pure.

The tag is replaced in the text; everything else stays byte for byte. Only an edit of queue or priority writes the JSON
anew, by Python, which keeps empty lists and large integers as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import object_hook

from celeray.scheduler import priorities
from celeray.scheduler.topology import ANONYMOUS

_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
_TAG = re.compile(r"[!-~]+")
_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class UnreadableLetterError(Exception):
    """kombu could not make a message of the bytes; says why."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that kombu can read."""

    text: str
    document: dict[str, Any]
    """As plain JSON: what kombu makes objects of stays as it was written."""

    @property
    def properties(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["properties"]
        return found


class _Codecs:
    """As much of a channel as reading a body needs."""

    codecs = virtual.Channel.codecs
    decode_body = virtual.Channel.decode_body


def read_envelope(message: bytes) -> Envelope:
    """The message, if a worker could take it.

    Raises:
        UnreadableLetterError: it could not.
    """
    document = parsed(message)
    properties = document.get("properties")
    if not isinstance(properties, dict):
        raise UnreadableLetterError("properties: missing")
    tag, info = properties.get("delivery_tag"), properties.get("delivery_info")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise UnreadableLetterError("properties.delivery_tag: not a string of printable ASCII")
    if not isinstance(info, dict):
        raise UnreadableLetterError("properties.delivery_info: missing")
    if not isinstance(document.get("headers"), dict):
        raise UnreadableLetterError("headers: missing")
    text = message.decode()
    try:
        virtual.Message(json.loads(text, object_hook=object_hook), channel=_Codecs())
    except _BROKEN as error:
        raise UnreadableLetterError(f"{type(error).__name__}: {error}") from error
    return Envelope(text, document)


def parsed(message: bytes) -> dict[str, Any]:
    """The JSON object that the bytes are.

    Raises:
        UnreadableLetterError: they are none.
    """
    try:
        document = json.loads(message.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableLetterError(f"no JSON: {error}") from error
    if not isinstance(document, dict):
        raise UnreadableLetterError("not a JSON object")
    return document


def body_of(document: dict[str, Any]) -> bytes | None:
    """The body, decoded from its transport encoding. None: it has none, or none that can be decoded."""
    body, properties = document.get("body"), document.get("properties")
    encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
    try:
        found = _Codecs().decode_body(body, encoding) if body else b""
    except _BROKEN:
        return None
    if isinstance(found, str):
        return found.encode("utf-8", "backslashreplace")
    return found if isinstance(found, bytes) else None


def renewed(envelope: Envelope, tag: str) -> bytes:
    """The same bytes with another delivery tag: begun runs and fences are counted by it."""
    text = envelope.text
    start = _member(text, _BLANK.match(text).end(), "properties")[0]  # type: ignore[union-attr] # matches nothing, too
    first, last = _member(text, start, "delivery_tag")
    return f"{text[:first]}{json.dumps(tag)}{text[last:]}".encode()


def edited(envelope: Envelope, tag: str, *, queue: str | None, priority: int | None) -> bytes:
    """The message for another queue, at another priority, or both, as moving.py makes it.

    Args:
        priority: of the API, 1 to 10; it is translated here, and nowhere after.
    """
    document, properties = envelope.document, {**envelope.properties, "delivery_tag": tag}
    headers = dict(document["headers"])
    if priority is not None:
        properties["priority"] = priorities.to_broker(priority, lowest_first=True)
        headers[priorities.HEADER] = priority
    if queue is not None:
        place = {"exchange": ANONYMOUS, "routing_key": queue}
        properties["delivery_info"] = {**properties["delivery_info"], **place}
    return json.dumps({**document, "headers": headers, "properties": properties}).encode()


def _member(text: str, at: int, name: str) -> tuple[int, int]:
    """Where the value of a member of the object at `at` begins and ends. Of several the last one counts."""
    found = [(start, end) for key, start, end in _members(text, at) if key == name]
    return found[-1]


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    at = _after_blank(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _after_blank(text, _after_blank(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        at = _after_blank(text, end)
        if text[at] == ",":
            at = _after_blank(text, at + 1)


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at
