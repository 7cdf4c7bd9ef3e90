"""The API as a server on a real socket: what a client can send only there."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from celeray.api import serve as serving
from celeray.api.app import create_app
from celeray.api.bodies import BODY_MAX_BYTES
from celeray.api.tokens import Role
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

pytestmark = pytest.mark.integration
DEADLINE_S = 20.0
MakeToken = Callable[..., dict[str, str]]
PAUSE = "/v1/queues/gpu.generation/pause"


@pytest.fixture
def port(store: StatusStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    servers: list[uvicorn.Server] = []
    real = uvicorn.Server

    def remembered(config: uvicorn.Config) -> uvicorn.Server:
        servers.append(real(config))
        # Signals go to the main thread only.
        monkeypatch.setattr(servers[0], "capture_signals", contextlib.nullcontext)
        return servers[0]

    monkeypatch.setattr(serving.uvicorn, "Server", remembered)
    listener = serving.listen("127.0.0.1", 0)
    thread = threading.Thread(target=serving.serve, args=(create_app(settings, store), listener))
    thread.start()
    end_at = time.monotonic() + DEADLINE_S
    while not (servers and servers[0].started):
        assert thread.is_alive()
        assert time.monotonic() < end_at
        time.sleep(0.01)
    yield listener.getsockname()[1]
    servers[0].should_exit = True
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def exchange(port: int, *parts: bytes) -> tuple[int, dict[str, object]]:
    """Send the parts, and read the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
        for part in parts:
            try:
                sock.sendall(part)
            except OSError:  # it answered and hung up
                break
        answer = b""
        while b"\r\n\r\n" not in answer or b"}" not in answer.partition(b"\r\n\r\n")[2]:
            received = sock.recv(65536)
            if not received:
                break
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def head(path: str, headers: dict[str, str], **more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in (headers | more).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_pause_over_the_wire(port: int, make_token: MakeToken) -> None:
    body = json.dumps({"why": "wire"}).encode()
    status, document = exchange(
        port, head(PAUSE, make_token(Role.OPERATOR), Content_Length=str(len(body))), body
    )
    assert status == 200
    assert document["changed"] is True


def test_a_chunked_body_is_bounded_too(port: int, make_token: MakeToken) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    started = head(PAUSE, make_token(Role.OPERATOR), Transfer_Encoding="chunked")
    status, document = exchange(port, started, *[chunk] * 20, b"0\r\n\r\n")
    assert status == 413
    assert str(BODY_MAX_BYTES) in str(document["detail"])


def test_without_a_token_the_body_is_not_waited_for(port: int, make_token: MakeToken) -> None:
    """The answer comes although the body never does."""
    status, _ = exchange(port, head(PAUSE, {}, Content_Length="100"))
    assert status == 403
    make_token(Role.VIEWER)
    status, document = exchange(port, head(PAUSE, {}, Content_Length="100"))
    assert status == 401
    assert document["title"] == "Unauthorized"


def test_a_client_cannot_choose_the_address_that_is_counted(
    port: int, make_token: MakeToken, caplog: pytest.LogCaptureFixture
) -> None:
    make_token(Role.VIEWER)
    statuses = []
    for number in range(12):
        sent = {"Authorization": "Bearer wrong", "X-Forwarded-For": f"10.0.0.{number}", "Content-Length": "0"}
        statuses.append(exchange(port, head(PAUSE, sent))[0])
    assert statuses == [401] * 10 + [429] * 2
    assert "10.0.0." not in caplog.text
