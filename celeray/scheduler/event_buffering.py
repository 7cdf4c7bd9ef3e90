"""Task events of a short while go out in one message, in every worker of an installed app.

Celery's dispatcher buffers task events and publishes them at the end of each turn of the event loop
(`on_send_buffered`), and at every 24 before that. Each publish waits for the broker, which on Redis was half of the
time of a plain worker with short tasks.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer.events import Events
from kombu.common import ignore_errors

EVENTS_A_MESSAGE = 1_000
"""About 400 bytes each."""
DELAY_S = 0.02
"""From a task event to its publishing. Flower and the like look a few times a second at most."""


class EventBuffer:
    """Flushes one dispatcher a moment after the first event since the last flush."""

    def __init__(self, hub: Any, dispatcher: Any) -> None:
        self._hub = hub
        self._dispatcher = dispatcher
        self._due = False

    def on_buffered(self) -> None:
        """An event is in the dispatcher's buffer."""
        if not self._due:
            self._due = True
            self._hub.call_later(DELAY_S, self._flush)

    def _flush(self) -> None:
        self._due = False
        self._dispatcher.flush()


class BufferEvents(bootsteps.StartStopStep):
    """Consumer step. Dispatcher and loop are set up anew after each reconnect, and so is this."""

    requires = (Events,)

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        # Without an event loop Celery's dispatcher buffers no task event.
        if dispatcher is not None and consumer.hub:
            dispatcher.buffer_limit = EVENTS_A_MESSAGE
            dispatcher.on_send_buffered = EventBuffer(consumer.hub, dispatcher).on_buffered

    def stop(self, consumer: Any) -> None:
        """What is buffered goes out. Where the connection is gone it stays with the dispatcher, which tries later."""
        if consumer.event_dispatcher is not None:
            ignore_errors(consumer, consumer.event_dispatcher.flush)
