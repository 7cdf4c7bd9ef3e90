"""A TCP proxy that can go wrong: stall, cut, half-open, a reset in the middle of a reply, one byte at a time."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

CHUNK = 64 * 1024
Chosen = Callable[["Link"], bool]


class Link:
    """One connection through the proxy. Belongs to the proxy's loop."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.opened = b""
        """The first bytes that the client sent, enough to tell what kind of client it is."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.swallows = False
        """Half-open: what is sent is taken and never arrives."""
        self.reply_bytes_left: int | None = None
        """Bytes from the server that still pass; then the connection is reset."""

    def reset(self) -> None:
        """RST to both ends; what the proxy holds is gone."""
        for writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self.flowing.set()

    @property
    def replicates(self) -> bool:
        """Whether a replica is at the other end."""
        return b"psync" in self.opened.lower()


def every(_link: Link) -> bool:
    return True


class Proxy:
    """Between `127.0.0.1:port` and a server. Its methods are called from any thread, and are done when they return."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._links: list[Link] = []
        self._transports: WeakSet[Any] = WeakSet()
        self._chunk = CHUNK
        self._stalls: list[Chosen] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults-proxy", daemon=True)
        self._listener: asyncio.Server | None = None

    def start(self) -> Proxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def stop(self) -> None:
        """Cut everything and end."""
        self._run(self._close())
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Faults

    def stall(self, chosen: Chosen = every) -> None:
        """From now on nothing passes, of open links and of new ones, until `resume`."""
        self._call(self._stalls.append, chosen)
        self._call(lambda: [link.flowing.clear() for link in self._links if chosen(link)])

    def resume(self) -> None:
        """Let what was stalled flow again, with what waited."""
        self._call(self._stalls.clear)
        self._call(lambda: [link.flowing.set() for link in self._links])

    def cut(self, chosen: Chosen = every) -> int:
        """Reset open links; what was on its way is lost. Returns how many."""
        return int(self._call(lambda: len([link.reset() for link in list(self._links) if chosen(link)])))

    def half_open(self) -> None:
        """Open links stay open, and nothing that is sent on them ever arrives. New links work."""
        self._call(lambda: [setattr(link, "swallows", True) for link in self._links])

    def cut_replies_after(self, count: int) -> None:
        """Reset each open link when `count` more bytes of replies have passed: in the middle of one."""
        self._call(lambda: [setattr(link, "reply_bytes_left", count) for link in self._links])

    @contextmanager
    def chunks_of(self, size: int) -> Iterator[None]:
        """Pass so many bytes at a time."""
        self._call(setattr, self, "_chunk", size)
        try:
            yield
        finally:
            self._call(setattr, self, "_chunk", CHUNK)

    def refuse(self) -> None:
        """Cut everything and listen no more, as a machine that is gone."""
        self._run(self._close())

    @property
    def links(self) -> int:
        return int(self._call(lambda: len(self._links)))

    # In the loop

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for link in list(self._links):
            link.reset()
        while self._links:
            await asyncio.sleep(0.01)

    async def _finish(self) -> None:
        """End whoever is still being accepted, and close every transport, which takes rounds of the loop."""
        me = asyncio.current_task()
        for _ in range(3):
            others = [task for task in asyncio.all_tasks() if task is not me]
            if others:
                await asyncio.wait(others, timeout=0.5)
            for task in others:
                task.cancel()
            for transport in self._transports:
                transport.abort()
            await asyncio.sleep(0.02)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._transports.add(forth.transport)
        link = Link(writer, forth)
        if any(chosen(link) for chosen in self._stalls):
            link.flowing.clear()
        self._links.append(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, forth, from_client=True)),
            asyncio.ensure_future(self._pump(link, back, writer, from_client=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            link.client.transport.abort()
            link.server.transport.abort()
            self._links.remove(link)

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if from_client and len(link.opened) < 4096:
                    link.opened += data
                    if any(chosen(link) for chosen in self._stalls):
                        link.flowing.clear()
                await link.flowing.wait()
                if link.swallows:
                    continue
                if not from_client and link.reply_bytes_left is not None:
                    if len(data) >= link.reply_bytes_left:
                        writer.write(data[: link.reply_bytes_left])
                        await writer.drain()
                        link.reset()
                        return
                    link.reply_bytes_left -= len(data)
                await self._pass(writer, data)
            await link.flowing.wait()

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), self._chunk):
            writer.write(data[start : start + self._chunk])
            await writer.drain()
            if self._chunk < 16:
                # Or the kernel would put the pieces together again.
                await asyncio.sleep(0)

    def _run(self, made: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(made, self._loop).result(20)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return function(*args)

        return self._run(call())
