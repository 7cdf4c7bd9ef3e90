"""Publishes what letters become, on a broker that is no Redis, and waits for its confirmation where it gives one.

A connection is opened with the first message and closed after the last one: there is little to publish, and what is
idle needs heartbeats.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kombu.common import maybe_declare

from celeray.scheduler.letters.foreign import Outgoing
from celeray.scheduler.topology import ANONYMOUS

CONFIRM_S = 10.0
"""How long a confirmation may take; the connection is given up then."""
CONNECT_S = 5.0
NO_ROUTE, PRECONDITION_FAILED, TOO_LARGE = 312, 406, 311


class RefusedLetterError(Exception):
    """The broker will not take the message, however often it is published; says why."""


class UnansweredError(Exception):
    """The broker did not answer, or did not want the message now; says why. Whether it has it is not known."""


class Producer:
    """Of one app. Not thread-safe."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None
        self._channel: Any = None

    def publish(self, letter: Outgoing) -> None:
        """Return when the broker has the message in its queue; brokers that confirm nothing have been sent it.

        Raises:
            RefusedLetterError: there is no such queue, or the message can't be one there.
            UnansweredError: try again later.
        """
        try:
            try:
                self._publish(letter)
            except Exception as error:
                if not self._declare(letter.queue, error):
                    raise
                self._publish(letter)
        except Exception as error:
            # A confirmation that comes late would be taken for that of the next message.
            self.close()
            words = f"{type(error).__name__}: {error}"
            if (why := _refusal(error)) is not None:
                raise RefusedLetterError(f"queue {letter.queue!r}: {why}: {words}") from error
            raise UnansweredError(words) from error

    def close(self) -> None:
        """Again changes nothing."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            # It may be broken, which is why it is closed.
            with suppress(Exception):
                connection.release()

    def _declare(self, queue: str, error: Exception) -> bool:
        """Whether the queue is one of the app's, and there now: nobody may have used it before."""
        if getattr(error, "reply_code", None) != NO_ROUTE or queue not in self._app.amqp.queues:
            return False
        self.close()
        maybe_declare(self._app.amqp.queues[queue], self._open())
        return True

    def _publish(self, letter: Outgoing) -> None:
        channel = self._open()
        message = channel.prepare_message(
            letter.body,
            letter.priority,
            letter.content_type,
            letter.content_encoding,
            letter.headers,
            dict(letter.properties),
        )
        confirmed = getattr(channel, "basic_publish_confirm", None)
        if confirmed is None:
            channel.basic_publish(message, exchange=ANONYMOUS, routing_key=letter.queue)
        else:
            # Mandatory, since a message without a queue is confirmed as well, and dropped.
            confirmed(
                message,
                exchange=ANONYMOUS,
                routing_key=letter.queue,
                mandatory=True,
                confirm_timeout=CONFIRM_S,
            )

    def _open(self) -> Any:
        if self._channel is None:
            self._connection = self._app.connection_for_write(connect_timeout=CONNECT_S)
            self._channel = self._connection.channel()
        return self._channel


def _refusal(error: Exception) -> str | None:
    code = getattr(error, "reply_code", None)
    if code == NO_ROUTE:
        return "no such queue on the broker"
    if code in (TOO_LARGE, PRECONDITION_FAILED):
        return "the broker refuses the message"
    return "it can't be encoded" if isinstance(error, TypeError | ValueError) else None
