"""The message of a letter: whether kombu can read it, and its text with a new delivery tag or another member. Pure.

The tag is replaced in the text, and our header of earlier attempts cut out; everything else stays byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import object_hook

from celeray.scheduler.letters.attempts import HEADER as ATTEMPTS
from celeray.scheduler.preempted import HEADER as PREEMPTED

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
    """The message as it was first sent, with another delivery tag: begun runs and fences are counted by it."""
    text = without_header(without_header(envelope.text.encode(), ATTEMPTS), PREEMPTED).decode()
    start = _member(text, _BLANK.match(text).end(), "properties")[0]  # type: ignore[union-attr] # matches nothing, too
    first, last = _member(text, start, "delivery_tag")
    return f"{text[:first]}{json.dumps(tag)}{text[last:]}".encode()


def with_header(message: bytes, name: str, value: str) -> bytes:
    """The same bytes with one more header, before the others. `without_header` takes exactly it away again.

    Args:
        name: of it; where there is one of this name, it is replaced.
        value: printable ASCII.

    Raises:
        UnreadableLetterError: the message is no JSON object with headers.
    """
    text, at = _headers_at(without_header(message, name))
    if at is None:
        raise UnreadableLetterError("headers: missing")
    return put(text, ("headers", name), value).encode()


def without_header(message: bytes, name: str) -> bytes:
    """The same bytes without a header; where it has none of this name, they are the same.

    Raises:
        UnreadableLetterError: the message is no JSON object.
    """
    text, at = _headers_at(message)
    while at is not None and (span := _span(text, at, name)) is not None:
        text = text[: span[0]] + text[span[1] :]
    return text.encode()


def put(text: str, path: tuple[str, ...], value: Any) -> str:
    """The JSON text with one member replaced, or added at the beginning of its object. Of several the last one counts.

    Args:
        path: names of the objects, which are there, and of the member.
    """
    at = after_blank(text, 0)
    for name in path[:-1]:
        at = _member(text, at, name)[0]
    spans = [(start, end) for key, start, end in members(text, at) if key == path[-1]]
    if spans:
        return f"{text[: spans[-1][0]]}{json.dumps(value)}{text[spans[-1][1] :]}"
    separator = "" if text[after_blank(text, at + 1)] == "}" else ", "
    return f"{text[: at + 1]}{json.dumps(path[-1])}: {json.dumps(value)}{separator}{text[at + 1 :]}"


def _headers_at(message: bytes) -> tuple[str, int | None]:
    """The text, and where the object of its headers begins. None: it has none."""
    document, text = parsed(message), message.decode()
    if not isinstance(document.get("headers"), dict):
        return text, None
    return text, _member(text, after_blank(text, 0), "headers")[0]


def _span(text: str, at: int, name: str) -> tuple[int, int] | None:
    """Where a member of the object at `at` begins and ends, with the comma that goes with it."""
    before = at + 1
    for key, _, end in members(text, at):
        after = after_blank(text, end)
        if key == name:
            first = after_blank(text, before if text[before] != "," else before + 1)
            if text[after] == ",":
                # With the blank that kombu writes, and no more of them.
                return first, after + (2 if text[after + 1] == " " else 1)
            return (first if before == at + 1 else before), end
        before = after
    return None


def _member(text: str, at: int, name: str) -> tuple[int, int]:
    """Where the value of a member of the object at `at` begins and ends. Of several the last one counts."""
    found = [(start, end) for key, start, end in members(text, at) if key == name]
    return found[-1]


def members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Key of each member of the JSON object at `at`, and where its value begins and ends."""
    at = after_blank(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = after_blank(text, after_blank(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        at = after_blank(text, end)
        if text[at] == ",":
            at = after_blank(text, at + 1)


def after_blank(text: str, at: int) -> int:
    """The first place from `at` on that is no white space."""
    found = _BLANK.match(text, at)
    return found.end() if found else at
