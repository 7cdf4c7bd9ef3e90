"""Refuses request bodies that are too large, too slow or no plain JSON, before anything parses them."""

from __future__ import annotations

import asyncio
import json
import math
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celeray.api import problems
from celeray.api.problems import Problem

BODY_MAX_BYTES = 16 * 1024
LARGER_BYTES = {"/v1/explain": 256 * 1024}
"""By path: a whole batch is asked about."""
BODY_MAX_S = 10.0
"""From the first byte that is waited for to the last."""
DEPTH_MAX = 16
INTEGER_DIGITS_MAX = 18


class Bodies:
    """ASGI middleware: reads the whole body, checks it, and hands it on."""

    def __init__(self, app: ASGIApp, *, timeout_s: float = BODY_MAX_S) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = LARGER_BYTES.get(scope.get("path", ""), BODY_MAX_BYTES)
        try:
            check_length(headers.get("content-length"), most)
            async with asyncio.timeout(self._timeout_s):
                body = await _read(receive, most)
            check_body(body, headers.get("content-type", ""))
        except TimeoutError:
            detail = f"the body took longer than {self._timeout_s:g} s"
            await problems.response(HTTPStatus.REQUEST_TIMEOUT, detail)(scope, receive, send)
        except Problem as problem:
            await problems.response_to(problem)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, _replayed(body, receive), send)


def check_length(content_length: str | None, most: int = BODY_MAX_BYTES) -> None:
    """Refuse by what the client announces, before a byte of it is read.

    Raises:
        Problem: too long, or no number.
    """
    if content_length is None:
        return
    if not (content_length.isascii() and content_length.isdigit()):
        raise Problem(HTTPStatus.BAD_REQUEST, "Content-Length: expected a number")
    if len(content_length) > INTEGER_DIGITS_MAX or int(content_length) > most:
        raise _too_large(most)


def check_body(body: bytes, content_type: str) -> None:
    """Return if the body is empty, or JSON of bounded depth and numbers, with no key twice.

    Raises:
        Problem: it is not.
    """
    if not body:
        return
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type: expected application/json")
    try:
        text = body.decode("utf-8")
        check_depth(text)
        json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded,
            parse_float=_finite,
        )
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"body: not the JSON that is accepted: {error}") from error


def check_depth(text: str) -> None:
    """Bound the nesting, without recursion.

    Raises:
        ValueError: deeper than `DEPTH_MAX`.
    """
    depth = 0
    for character in _outside_strings(text):
        if character in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError(f"nested deeper than {DEPTH_MAX}")
        elif character in "]}":
            depth -= 1


def _outside_strings(text: str) -> str:
    parts: list[str] = []
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            inside = True
        else:
            parts.append(character)
    return "".join(parts)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _bounded(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS_MAX:
        raise ValueError(f"an integer of more than {INTEGER_DIGITS_MAX} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number beyond what a float holds")
    return number


def _too_large(most: int) -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: at most {most} bytes")


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
