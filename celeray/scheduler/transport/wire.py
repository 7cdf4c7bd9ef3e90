"""The connection that a channel claims over: what is sent, which replies are due, and the bell that wakes it.

Redis tells this connection when a list changes that it has looked into (client tracking, over RESP3), so an idle
worker asks for nothing and is woken by every producer, stock ones included. Where the server or redis-py can't do
that, the worker sleeps in a BRPOP of a list that nobody writes, 50 ms at a time, and looks again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from celeray.scheduler.transport.scripts import Argument, script

logger = logging.getLogger(__name__)

NAP_S = 0.05
EVERYTHING, NOTHING = -1, 1 << 30
"""As levels from which on lists may have changed: the queues' state too, and none."""


class Wire:
    """State of one connection. Belongs to one thread."""

    def __init__(self, level_of: Callable[[bytes], int]) -> None:
        """
        Args:
            level_of: the level of a list by its key; `EVERYTHING` for a key that is none.
        """
        self._level_of = level_of
        self._sock: Any = None
        self.tracks = False
        """Whether the server tells of changes on this connection."""
        self.rung_from = EVERYTHING
        """The most urgent level of which a list may have changed since it was looked into."""
        self.due: deque[str] = deque()
        """Replies that are still to come, in order."""
        self._unloaded: set[str] = set()
        self._packed: list[Any] = []

    def begin(self, connection: Any) -> None:
        """Before commands are collected. On a new connection nothing is due and everything may have changed."""
        self._packed = []
        if connection._sock is self._sock and self._sock is not None:
            return
        self.reset()
        if connection._sock is None:
            connection.connect()
        self._sock = connection._sock
        parser = connection._parser
        if connection.get_protocol() in (3, "3") and hasattr(parser, "set_invalidation_push_handler"):
            parser.set_invalidation_push_handler(self._ring)
            self.add(connection, "tracking", ("CLIENT", "TRACKING", "ON", "NOLOOP"))

    def ring(self, level: int = EVERYTHING) -> None:
        """Lists of this level may have changed."""
        self.rung_from = min(self.rung_from, level)

    def looked(self) -> None:
        """All lists are being looked into."""
        self.rung_from = NOTHING

    @property
    def rung(self) -> bool:
        """Whether a list may have changed since it was looked into."""
        return self.rung_from != NOTHING

    def reset(self) -> None:
        """The connection is gone."""
        self._sock, self.tracks, self.rung_from = None, False, EVERYTHING
        self.due.clear()

    def add(self, connection: Any, kind: str, command: Sequence[Argument]) -> None:
        """Collect a command."""
        self._packed.append((kind, connection.pack_command(*command)))

    def add_script(self, connection: Any, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        """Collect a call of a script."""
        loaded = name not in self._unloaded
        self._unloaded.discard(name)
        self.add(connection, name, script(name).command(keys, args, loaded=loaded))

    def add_nap(self, connection: Any, key: str) -> None:
        """Collect a short sleep, in which nothing else can be sent."""
        self.add(connection, "nap", ("BRPOP", key, NAP_S))

    def send(self, connection: Any) -> bool:
        """Send what was collected. False: there was nothing."""
        packed, self._packed = self._packed, []
        if not packed:
            return False
        # A health check would wait for its reply; an answer that stays away is noticed by the poller.
        connection.send_packed_command([part for _, parts in packed for part in parts], check_health=False)
        self.due.extend(kind for kind, _ in packed)
        return True

    def read(self, connection: Any) -> tuple[str, Any]:
        """The next reply and its kind; an error of the server is returned. Raises the connection's errors."""
        kind = self.due[0]
        try:
            reply = connection.read_response(disable_decoding=True)
        except exceptions.NoScriptError as error:
            self._unloaded.add(kind)
            reply = error
        except exceptions.ResponseError as error:
            reply = error
        self.due.popleft()
        if kind == "tracking":
            self.tracks = not isinstance(reply, Exception)
            if not self.tracks:
                logger.info("no client tracking, looking into the queues every %g s: %s", NAP_S, reply)
        return kind, reply

    def read_pushes(self, connection: Any) -> None:
        """While no reply is due: what the server has told. Raises `redis.ConnectionError` when it hung up."""
        while not self.due and connection.can_read(timeout=0):
            connection.read_response(push_request=True)

    def _ring(self, message: Any) -> None:
        # ["invalidate", [keys]]; no keys where the whole database was flushed.
        keys = message[1] if len(message) > 1 else None
        if not keys:
            self.ring()
            return
        for key in keys:
            self.ring(self._level_of(key if isinstance(key, bytes) else str(key).encode()))
