"""A parked message as an operator sees it. Whatever bytes are there, reading them never fails.

A record in Redis is a msgpack map: reason, detail, list, at, begun, message (transport/lua/lease.lua, `park`), and what
lua/end_run.lua, lua/leave.lua, lua/places.lua and lua/take_in.lua add. What it lacks, or has in another type, is shown
as unknown; the bytes are kept as they are. The reason is any text.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict

from celeray.scheduler import priorities
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters import attempts
from celeray.scheduler.letters.attempts import Attempt, Attempts, attempts_of
from celeray.scheduler.letters.envelope import UnreadableLetterError, body_of, parsed, read_envelope

UNKNOWN = "unknown"
"""The reason of what is no record."""
TEXT_MAX = 2_000
"""Characters of a name, a reason or a detail that are shown."""
BODY_MAX = 64 * 1024
"""Bytes of a body that are shown as text; the whole is in `message_base64`."""
DEPTH_MAX = 12
SAFE = ":"
"""Kept in an id, besides letters, digits and `-._~`."""


class LetterState(StrEnum):
    """Where a letter is on its way."""

    SCHEDULED = "scheduled"
    """Its retry policy sends it again when it is due."""
    PARKED = "parked"
    REDRIVEN = "redriven"
    """An operator sent it again. Remembered for an hour."""
    DISCARDED = "discarded"
    """An operator forgot it. Remembered for an hour."""


class Letter(BaseModel):
    """What a list shows of a parked message."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: LetterState = LetterState.PARKED
    task_id: str | None
    """None: the message can't be read so far, or names none."""
    task: str | None
    """Name of the task; None as above."""
    queue: str | None
    """Whose list it was taken from. None: unknown."""
    priority: int
    """1 to 10, 10 most urgent."""
    reason: str
    detail: str
    parked_at: float
    """Seconds since the epoch by the clock of Redis, of the end of the last run where it is scheduled. 0: unknown."""
    due_at: float | None = None
    """When it is sent again, in seconds since the epoch. None: not by itself."""
    past_at: float | None = None
    """When it was redriven or discarded. None: it was not."""
    attempts: int = 0
    """Runs of it that failed, as far as is known."""
    exception: str | None = None
    """Class of the last one's exception. None: unknown."""
    begun: int
    """Runs of it that had begun and not ended."""
    size: int
    """Bytes of the message."""


class LetterDetail(Letter):
    """A parked message with all that can be read of it, the task's arguments among it."""

    history: tuple[Attempt, ...] = ()
    """Its attempts: the first two, and the last eight."""
    retried: int = 0
    """How many of them its retry policy has retried."""
    unreadable: str | None
    """Why it can't be sent again. None: it can."""
    list: str
    headers: Any = None
    properties: Any = None
    content_type: str | None = None
    content_encoding: str | None = None
    body: str | None = None
    """As text, at most 64 KiB. None: there is none, or it is no UTF-8."""
    message_base64: str
    """The bytes of the message as they are."""
    original_base64: str | None = None
    """What was put on the dead-letter queue, where the message was made of it. None: the message is that."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A record, unpacked."""

    field: bytes
    reason: str
    detail: str
    list: bytes
    at: float
    begun: int
    message: bytes
    state: LetterState = LetterState.PARKED
    due: float | None = None
    gone: float | None = None
    tries: int | None = None
    """None: the record does not say."""
    exception: str | None = None
    attempts: bytes | None = None
    task: str | None = None
    """This and the next only where the message is kept no more."""
    task_id: str | None = None
    original: bytes | None = None
    broker: str | None = None
    """Kind of the broker that it came from, and that it is published to. None: the Redis where the letter is."""

    @property
    def lowest_first(self) -> bool:
        """Whether its priority is that of Redis."""
        return self.broker is None


_PAST = {b"redriven": LetterState.REDRIVEN, b"discarded": LetterState.DISCARDED}


def unpacked(field: bytes, raw: bytes, state: LetterState = LetterState.PARKED) -> Parked:
    """The record in `raw`; where it is none, `raw` is the message.

    Args:
        state: by the place where it was; one that is past says itself which of both.
    """
    try:
        found = msgpack.unpackb(raw, raw=True, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException):
        found = None
    if not isinstance(found, dict) or not isinstance(message := found.get(b"message"), bytes):
        return Parked(field, UNKNOWN, "not a record of a parked message", b"", 0.0, 0, raw, state)
    name, said = found.get(b"list"), found.get(b"state")
    return Parked(
        field=field,
        reason=shown_reason(found.get(b"reason")),
        detail=_text(found.get(b"detail")) or "",
        list=name if isinstance(name, bytes) else b"",
        at=_number(found.get(b"at")),
        begun=int(_number(found.get(b"begun"))),
        message=message,
        state=_PAST[said] if isinstance(said, bytes) and said in _PAST else state,
        **_of_its_runs(found),
    )


def attempts_in(parked: Parked, headers: Any) -> Attempts:
    """What is known of its failed runs: by its record, else by its message."""
    return attempts_of(headers) if parked.attempts is None else attempts.unpacked(parked.attempts)


def letter_of(parked: Parked, keys: Keys, *, size: int | None = None) -> Letter:
    """What a list shows. `size`: of the whole message, where `parked` has only a part of it."""
    try:
        document = parsed(parked.message)
    except UnreadableLetterError:
        document = {}
    return Letter(**_shown(parked, document, keys, size))


def detail_of(parked: Parked, keys: Keys) -> LetterDetail:
    """All that can be read."""
    document: dict[str, Any] = {}
    unreadable = None
    try:
        document = parsed(parked.message)
        read_envelope(parked.message)
    except UnreadableLetterError as error:
        unreadable = _clean(str(error))
    body = body_of(document)
    failed = attempts_in(parked, document.get("headers"))
    return LetterDetail(
        **_shown(parked, document, keys, None),
        history=failed.kept,
        retried=failed.retried,
        unreadable=unreadable,
        list=_clean(parked.list.decode("utf-8", "backslashreplace")),
        headers=_plain(document.get("headers")),
        properties=_plain(document.get("properties")),
        content_type=_text(document.get("content-type")),
        content_encoding=_text(document.get("content-encoding")),
        body=_body_text(body),
        message_base64=base64.b64encode(parked.message).decode(),
        original_base64=None if parked.original is None else base64.b64encode(parked.original).decode(),
    )


def place_of(parked: Parked, keys: Keys) -> tuple[str | None, int]:
    """Queue and broker priority (0 to 9) by the name of the list. None: the record names none."""
    name = parked.list.decode("utf-8", "backslashreplace").removeprefix(keys.prefix)
    queue, _, step = name.partition(keys.separator)
    return queue or None, int(step) if step.isascii() and step.isdigit() and len(step) == 1 else 0


def shown_reason(reason: Any) -> str:
    """The reason of a record as text."""
    return _text(reason) or UNKNOWN


def letter_id(field: bytes) -> str:
    """The id of a letter: its field in the hash, with what a URL would not take as it is as =XX."""
    return quote(field, safe=SAFE).replace("%", "=")


def field_of(letter: str) -> bytes:
    """The field of a letter's id."""
    return unquote_to_bytes(letter.replace("%", "%25").replace("=", "%"))


def _shown(parked: Parked, document: dict[str, Any], keys: Keys, size: int | None) -> dict[str, Any]:
    headers, properties = document.get("headers"), document.get("properties")
    headers = headers if isinstance(headers, dict) else {}
    queue, step = place_of(parked, keys)
    sent = properties.get("priority") if isinstance(properties, dict) else step
    tries, exception = parked.tries, parked.exception
    if tries is None:
        failed = attempts_of(headers)
        tries, exception = failed.total, failed.last.exception if failed.last else None
    return {
        "id": letter_id(parked.field),
        "state": parked.state,
        "due_at": parked.due if parked.state is LetterState.SCHEDULED else None,
        "past_at": parked.gone,
        "attempts": tries,
        "exception": exception,
        "task_id": _text(headers.get("id")) or parked.task_id,
        "task": _text(headers.get("task")) or parked.task,
        "queue": None if queue is None else _clean(queue),
        "priority": priorities.from_broker(
            sent, headers.get(priorities.HEADER), lowest_first=parked.lowest_first
        ),
        "reason": parked.reason,
        "detail": parked.detail,
        "parked_at": parked.at,
        "begun": parked.begun,
        "size": len(parked.message) if size is None else size,
    }


def _of_its_runs(found: dict[Any, Any]) -> dict[str, Any]:
    due, gone, tries = found.get(b"due"), found.get(b"gone"), found.get(b"tries")
    kept, original = found.get(b"attempts"), found.get(b"original")
    return {
        "original": original if isinstance(original, bytes) else None,
        "broker": _text(found.get(b"broker")) or None,
        "due": None if due is None else _number(due),
        "gone": None if gone is None else _number(gone),
        "tries": None if tries is None else int(_number(tries)),
        "exception": _text(found.get(b"exception")) or None,
        "attempts": kept if isinstance(kept, bytes) else None,
        "task": _text(found.get(b"task")),
        "task_id": _text(found.get(b"task_id")),
    }


def _number(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else 0.0


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return _clean(value) if isinstance(value, str) else None


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON output refuses, and not endless."""
    return text[:TEXT_MAX].encode("utf-8", "backslashreplace").decode()


def _body_text(body: bytes | None) -> str | None:
    if not body:
        return None
    cut = body[:BODY_MAX]
    try:
        # A cut may go through a character.
        return cut.decode("utf-8", "ignore" if len(body) > BODY_MAX else "strict")
    except UnicodeDecodeError:
        return None


def _plain(value: Any, depth: int = 0) -> Any:
    """For JSON output: bounded in depth, every text clean."""
    if depth > DEPTH_MAX:
        return "..."
    if isinstance(value, dict):
        return {_clean(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return str(value) if abs(value) < 10**TEXT_MAX else "..."
    return _clean(value) if isinstance(value, str) else value
