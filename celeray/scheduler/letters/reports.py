"""What somebody put on the dead-letter queue, read: which task, which error, and the message that sends it again. Pure.

Three kinds are known. A message of a Celery task is kept as it is. The older shape, {"task": {...}, "error": ...,
"retry_count": n}, as the body of a message, in a task's kwargs or first argument, or as bare JSON on the list, tells of
an inner task: a message of Celery's protocol 2 is made for that one. Whatever else comes is kept with its bytes.

Whoever can publish can write anything there: reading it never fails, and is bounded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu.serialization import loads
from kombu.utils.json import dumps

from celeray.scheduler import priorities
from celeray.scheduler.letters.attempts import MESSAGE_MOST, NAME_MOST, clean
from celeray.scheduler.letters.envelope import UnreadableLetterError, body_of, parsed, read_envelope
from celeray.scheduler.topology import ANONYMOUS

BODY_MOST = 1024 * 1024
"""Bytes of a body that is looked into; a larger one is kept as it is."""
RETRIES_MOST = 1_000_000
_ACCEPTED = ("application/json", "application/x-msgpack", "text/plain")
_NAMESPACE = uuid.UUID("0c4b9a53-55c8-5ab6-9d0a-7d8a5c3f2e19")
"""Of the task ids that are made here; any fixed value does."""
_NAMES, _IDS = ("name", "task", "task_name"), ("id", "task_id")
_MEMBERS = ("args", "kwargs", "id", "task_id", "queue", "priority")
_BROKEN = (ValueError, TypeError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Report:
    """One entry of the queue."""

    letter_id: str
    """The same for the same bytes."""
    message: bytes | None = None
    """That a redrive sends. None: the bytes as they are."""
    detail: str = ""
    """The error's text, and why it can't be sent where it can't."""
    tries: int | None = None
    """Runs that failed. None: it does not say."""
    exception: str | None = None
    """Class of the last one's exception. None: it does not say."""
    can_be_sent: bool = True


def read_report(raw: bytes, dead_letter_queue: str) -> Report:
    """What is known of the bytes of a list."""
    digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    try:
        document = parsed(raw)
    except UnreadableLetterError as error:
        return Report(f"reported-{digest}", detail=_detail(None, str(error)), can_be_sent=False)
    shape = _shape_in(document)
    if shape is None:
        fault = _fault(raw, document)
        return Report(_letter_id(document, digest), detail=_detail(None, fault), can_be_sent=fault is None)
    error_text, exception = _error(shape.get("error"))
    tries = _count(shape.get("retry_count"))
    letter_id = _letter_id(document, digest)
    try:
        message = _message(_inner(shape), digest, letter_id, dead_letter_queue)
    except (*_BROKEN, UnreadableLetterError) as error:
        why = f"the task in it can't be sent: {error}"
        return Report(letter_id, None, _detail(error_text, why), tries, exception, can_be_sent=False)
    return Report(letter_id, message, _detail(error_text, None), tries, exception)


def _shape_in(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The older shape, wherever it is in the message. None: it is not of that shape."""
    if "body" not in document:
        return _as_shape(document, Mapping | str)
    body = _decoded(document)
    if isinstance(body, Mapping):
        # Of protocol 1 the task's kwargs are in it.
        return _as_shape(body.get("kwargs"), Mapping) or _as_shape(body, Mapping | str)
    if isinstance(body, list | tuple) and len(body) == 3:
        args, kwargs, _ = body
        first = args[0] if isinstance(args, list | tuple) and args else None
        return _as_shape(kwargs, Mapping) or _as_shape(first, Mapping)
    return None


def _as_shape(value: Any, task: Any) -> Mapping[str, Any] | None:
    """`value`, if it is one, with an inner task of type `task`: a task's own arguments may have such names, too."""
    if not isinstance(value, Mapping) or ("error" not in value and "retry_count" not in value):
        return None
    return value if isinstance(value.get("task"), task) else None


def _decoded(document: Mapping[str, Any]) -> Any:
    """The body, decoded. None: compressed, too large, or not in JSON or msgpack."""
    headers, body = document.get("headers"), body_of(dict(document))
    packed = isinstance(headers, Mapping) and headers.get("compression")
    if body is None or packed or len(body) > BODY_MOST:
        return None
    kind, encoding = document.get("content-type"), document.get("content-encoding")
    try:
        found = loads(body, kind or _ACCEPTED[0], encoding or "utf-8", accept=_ACCEPTED)
        # What is published as text has no type of its own.
        return json.loads(found) if isinstance(found, str | bytes) else found
    except Exception:  # noqa: BLE001 - a decoder may raise anything
        return None


def _inner(shape: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task's own members, which an even older shape has beside its name."""
    task = shape["task"]
    if isinstance(task, Mapping):
        return task
    return {"name": task, **{name: shape[name] for name in _MEMBERS if name in shape}}


def _message(task: Mapping[str, Any], digest: str, tag: str, dead_letter_queue: str) -> bytes:
    """Raises ValueError or another of _BROKEN, which say why there can be none."""
    name = _given(task, _NAMES)
    if name is None:
        raise ValueError("it names no task")
    task_id = _given(task, _IDS) or str(uuid.uuid5(_NAMESPACE, digest))
    args, kwargs = task.get("args"), task.get("kwargs")
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, list | tuple):
        raise ValueError(f"args is no list but a {type(args).__name__}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise ValueError("kwargs is no mapping of names")
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = dumps([list(args), dict(kwargs), embed]).encode()
    priority = _priority(task.get("priority"))
    document = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": name,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": clean(repr(tuple(args)), 1000),
            "kwargsrepr": clean(repr(dict(kwargs)), 1000),
            priorities.HEADER: priority,
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {
                "exchange": ANONYMOUS,
                "routing_key": _given(task, ("queue",)) or dead_letter_queue,
            },
            "priority": priorities.to_broker(priority, lowest_first=True),
            "body_encoding": "base64",
            "delivery_tag": tag,
        },
    }
    message = json.dumps(document).encode()
    read_envelope(message)
    return message


def _given(task: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the members that is a text that can be a name. Raises ValueError where one is too long."""
    for name in names:
        value = task.get(name)
        if isinstance(value, str) and value:
            if len(value) > NAME_MOST or clean(value, NAME_MOST) != value:
                raise ValueError(f"{name}: expected at most {NAME_MOST} characters that UTF-8 can write")
            return value
    return None


def _priority(value: Any) -> int:
    good = isinstance(value, int) and not isinstance(value, bool)
    return min(priorities.MOST, max(priorities.LEAST, value)) if good else priorities.DEFAULT


def _count(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool)
    return min(RETRIES_MOST, max(0, value)) if good else None


def _error(value: Any) -> tuple[str | None, str | None]:
    """Text and class of an error that is a text, or a mapping as Celery or another stores exceptions."""
    if isinstance(value, Mapping):
        kinds = [value.get(name) for name in ("exc_type", "type")]
        texts = [value.get(name) for name in ("exc_message", "message")]
        kind = next((clean(item, NAME_MOST) for item in kinds if isinstance(item, str)), None)
        text = next((item for item in texts if item is not None), None)
        return _text(value if text is None else text), kind
    return (None if value is None else _text(value)), None


def _text(value: Any) -> str:
    try:
        return clean(str(value), MESSAGE_MOST)
    except _BROKEN:
        return "<no text>"


def _fault(raw: bytes, document: Mapping[str, Any]) -> str | None:
    """Why the bytes can't be sent as they are. None: they can."""
    try:
        headers = read_envelope(raw).document["headers"]
    except UnreadableLetterError as error:
        return str(error)
    body = _decoded(document) if not isinstance(headers.get("task"), str) else None
    # Of protocol 1 the name is in the body.
    named = isinstance(headers.get("task"), str) or (isinstance(body, Mapping) and body.get("task"))
    return None if named else "it names no task"


def _detail(error: str | None, why_not: str | None) -> str:
    note = None if why_not is None else f"[can't be sent: {clean(why_not, MESSAGE_MOST)}]"
    return " ".join(part for part in (error, note) if part)


def _letter_id(document: Mapping[str, Any], digest: str) -> str:
    """The delivery tag, as other letters have it, where it can be one."""
    properties = document.get("properties")
    tag = properties.get("delivery_tag") if isinstance(properties, Mapping) else None
    good = isinstance(tag, str) and 0 < len(tag) <= NAME_MOST and tag.isascii() and tag.isprintable()
    return str(tag) if good and " " not in str(tag) else f"reported-{digest}"
