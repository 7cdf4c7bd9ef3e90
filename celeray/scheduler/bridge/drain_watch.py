"""Reads what operators drained, on a thread of its own with a connection of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from celeray.scheduler.draining import read_drained
from celeray.scheduler.keys import Keys
from celeray.scheduler.standing import Drained

logger = logging.getLogger(__name__)

READ_EVERY_S = 0.5


class DrainWatch(threading.Thread):
    """Start it, look at `newest`, `stop` it. While Redis is away, what was read last counts."""

    def __init__(self, connect: Callable[[], redis.Redis], keys: Keys, on_change: Callable[[], None]) -> None:
        """
        Args:
            connect: opens a client of celeray's database; called once, on the thread.
            on_change: called on the thread when `newest` is another one.
        """
        super().__init__(name="celeray-drains", daemon=True)
        self.newest: Drained | None = None
        """None: not read yet, so anything may be drained."""
        self._connect = connect
        self._keys = keys
        self._on_change = on_change
        self._stopping = threading.Event()
        self._failing = False

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        client = self._connect()
        while not self._stopping.is_set():
            self.read_once(client)
            self._stopping.wait(READ_EVERY_S)
        client.close()

    def read_once(self, client: redis.Redis) -> None:
        """Read, and tell of a change."""
        try:
            found = read_drained(client, self._keys)
        except Exception as error:  # noqa: BLE001 - a thread that ends here would follow no operator any more
            if not self._failing:
                logger.warning("what is drained can't be read, trying on: %r", error)
            self._failing = True
            return
        self._failing = False
        if found != self.newest:
            self.newest = found
            self._on_change()
