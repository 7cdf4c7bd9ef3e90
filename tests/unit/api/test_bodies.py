"""Which bodies are let through, without any app behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from celeray.api.bodies import BODY_MAX_BYTES, DEPTH_MAX, Bodies, check_body, check_length
from celeray.api.problems import Problem

JSON = "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"why": "[[[[[[[[[[[[[[[[[[[[ \\" {{{{"}',
        b"[" * DEPTH_MAX + b"]" * DEPTH_MAX,
        b"999999999999999999",
        b'{"a": -1.5e300, "b": null}',
    ],
)
def test_good_bodies(body: bytes) -> None:
    check_body(body, "application/json; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not the JSON"),
        (b"\xff", "not the JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": {"a": 1, "a": 2}}', "twice"),
        (b"NaN", "NaN"),
        (b"-Infinity", "Infinity"),
        (b"1e999", "float"),
        (b"9" * 19, "digits"),
        (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "deeper"),
        (b"[" * BODY_MAX_BYTES, "deeper"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "deeper"),
    ],
)
def test_bad_json(body: bytes, named: str) -> None:
    with pytest.raises(Problem, match=named) as caught:
        check_body(body, JSON)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"],
)
def test_a_body_of_another_type(content_type: str) -> None:
    check_body(b"", content_type)
    with pytest.raises(Problem) as caught:
        check_body(b"{}", content_type)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (None, None),
        ("0", None),
        (str(BODY_MAX_BYTES), None),
        (str(BODY_MAX_BYTES + 1), 413),
        ("9" * 5000, 413),
        ("-1", 400),
        ("x", 400),
        ("", 400),
        ("²", 400),
    ],
)
def test_the_announced_length(length: str | None, status: int | None) -> None:
    if status is None:
        check_length(length)
        return
    with pytest.raises(Problem) as caught:
        check_length(length)
    assert caught.value.status == status


class Exchange:
    """One request whose body comes in pieces; None: the next piece never comes."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = list(pieces)
        self.sent: list[dict[str, Any]] = []
        self.seen: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        piece = self.pieces.pop(0)
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["more_body"] is False
        self.seen.append(message["body"])

    def run(self, timeout_s: float = 5.0, **headers: str) -> int | None:
        scope = {
            "type": "http",
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }
        scope["headers"].append((b"content-type", JSON.encode()))
        asyncio.run(Bodies(self.app, timeout_s=timeout_s)(scope, self.receive, self.send))
        return self.sent[0]["status"] if self.sent else None


def test_the_app_gets_the_whole_body() -> None:
    exchange = Exchange(b'{"why":', b' "x"', b"}")
    assert exchange.run() is None
    assert [json.loads(body) for body in exchange.seen] == [{"why": "x"}]


def test_a_body_that_grows_too_large_is_not_read_to_its_end() -> None:
    exchange = Exchange(*[b" " * 1024] * 100)
    assert exchange.run() == 413
    assert len(exchange.pieces) == 100 - BODY_MAX_BYTES // 1024 - 1
    assert exchange.seen == []


def test_a_body_that_never_ends() -> None:
    exchange = Exchange(b"{", None)
    assert exchange.run(timeout_s=0.01) == 408
    assert exchange.seen == []


def test_an_announced_length_is_refused_before_a_byte_is_read() -> None:
    exchange = Exchange(b"x")
    assert exchange.run(**{"content-length": "99999999"}) == 413
    assert len(exchange.pieces) == 1
