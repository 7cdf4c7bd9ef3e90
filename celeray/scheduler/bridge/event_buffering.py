"""Task events of one turn of the event loop go out in one message.

Celery's dispatcher buffers task events and publishes them at the end of the turn (`on_send_buffered`), but at every 24
before that, and each publish waits for Redis. A bridge has hundreds of events a turn.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer.events import Events

EVENTS_A_MESSAGE = 1_000
"""About 400 bytes each."""


class BufferEvents(bootsteps.StartStopStep):
    """Consumer step of the bridge. The dispatcher is new after each reconnect."""

    requires = (Events,)

    def start(self, consumer: Any) -> None:
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.buffer_limit = EVENTS_A_MESSAGE

    def stop(self, consumer: Any) -> None:
        """Nothing: the dispatcher flushes by itself."""
