"""The driver's way to the bridge: events from any thread, one frame each, in the order of the calls."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from threading import Lock

from celeray.actors import channel
from celeray.scheduler.cluster import ClusterDown, ClusterEvent

BRIDGE_GONE = 3
"""Exit code of a driver whose bridge is gone."""
UNREACHABLE = 4
"""Exit code of a driver that lost the cluster."""


class EventPort:
    """Thread-safe. Ends the process when the bridge is gone: without it nobody wants the cluster."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()

    def emit(self, event: ClusterEvent) -> None:
        """Send one event at once, from the calling thread."""
        self.forward(channel.encode((event,)))

    def forward(self, frame: bytes | memoryview) -> None:
        """Send a frame that an executor made."""
        with self._lock:
            try:
                self._connection.send_bytes(frame)
            except OSError:
                os._exit(BRIDGE_GONE)

    def give_up(self, detail: str) -> None:
        """Say that the cluster is lost and end the process at once: Ray may hang on its way out."""
        self.emit(ClusterDown(detail))
        os._exit(UNREACHABLE)
