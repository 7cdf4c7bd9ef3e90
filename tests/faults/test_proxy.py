"""The proxy does to a connection what it says."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A reset is what is tested."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(server.server_address[1]) as made:
            yield made
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert answered(made, b"hello") == b"hello"
    return made


def answered(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = b""
    while len(got) < len(data) and (more := client.recv(1024)):
        got += more
    return got


def silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_a_stalled_link_goes_on_with_what_waited(proxy: Proxy, client: socket.socket) -> None:
    proxy.stall()
    client.sendall(b"waits")
    assert silent(client)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as later:
        later.sendall(b"too")
        assert silent(later), "new links are stalled as well"
        proxy.resume()
        assert client.recv(16) == b"waits"
        assert later.recv(16) == b"too"


def test_only_chosen_links_are_stalled(proxy: Proxy, client: socket.socket) -> None:
    with connect(proxy) as replica:
        assert answered(replica, b"PSYNC ? -1") == b"PSYNC ? -1"
        proxy.stall(lambda link: link.replicates)
        assert answered(client, b"passes") == b"passes"
        replica.sendall(b"waits")
        assert silent(replica)


def test_a_cut_resets_and_loses_what_was_on_its_way(proxy: Proxy, client: socket.socket) -> None:
    proxy.stall()
    client.sendall(b"lost")
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    proxy.resume()
    with connect(proxy) as again:
        assert answered(again, b"works") == b"works"


def test_a_half_open_link_says_nothing(proxy: Proxy, client: socket.socket) -> None:
    proxy.half_open()
    client.sendall(b"gone")
    assert silent(client)
    with connect(proxy) as again:
        assert answered(again, b"works") == b"works"


def test_a_reset_in_the_middle_of_a_reply(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut_replies_after(3)
    client.sendall(b"reply")
    got: list[bytes] = []
    with pytest.raises(ConnectionResetError):
        got.extend(iter(lambda: client.recv(16), b""))
    assert b"".join(got) in (b"rep", b""), "an RST may overtake what was read before it"


def test_one_byte_at_a_time(proxy: Proxy, client: socket.socket) -> None:
    with proxy.chunks_of(1):
        assert answered(client, b"x" * 500) == b"x" * 500


def test_a_machine_that_is_gone(proxy: Proxy, client: socket.socket) -> None:
    assert proxy.links == 1
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", proxy.port), timeout=1).close()
        except ConnectionRefusedError:
            return
    raise AssertionError("it still listens")
