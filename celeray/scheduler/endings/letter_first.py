"""Where the broker is no Redis: the letter is written to celeray's Redis first, and the acknowledgement follows.

A crash between the two gives a redelivery, which leaves the same letter and no second one. Where Redis does not answer,
the message stays unacknowledged and the letter is tried again; if the worker ends meanwhile, it is delivered again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis

from celeray.scheduler.broker import broker_keys, broker_redis, keeps_letters
from celeray.scheduler.letters.foreign import may_have_come, tag_of, text_of
from celeray.scheduler.letters.scripts import letter_script
from celeray.scheduler.receiving import queue_named
from celeray.scheduler.topology import BrokerKind
from celeray.scheduler.transport.ending import Ending
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

MARK_S = 24 * 3600
"""How long it is known that an attempt has left its letter."""
RETRY_S = 5.0

Later = Callable[..., Any]
"""`call_after(seconds, function, args)` of the consumer's timer: in the thread that may acknowledge."""


class LetterFirst:
    """Of one worker's consumer."""

    def __init__(self, app: Any, later: Later) -> None:
        self._app = app
        self._later = later
        self._kind: BrokerKind = app.amqp.broker_kind
        self.client: Any = broker_redis(app)
        self.keys = broker_keys(app)

    @classmethod
    def of(cls, consumer: Any) -> LetterFirst | None:
        """None: the broker is a Redis, which keeps letters itself, or the app has none at all."""
        app = consumer.app
        if app.amqp.broker_kind is BrokerKind.REDIS or not keeps_letters(app.conf):
            return None
        return cls(app, consumer.timer.call_after)

    def leave(self, message: Any, ending: Ending) -> None:
        """Write what is left of a message. What acknowledges or rejects it afterwards waits until that is done."""
        tag = tag_of(message)
        arguments = self._arguments(message, tag, ending)
        try:
            self._write(tag, arguments)
        except (redis.RedisError, OSError) as error:
            if message.acknowledged:
                logger.exception(
                    "message %s had been acknowledged, and its end is lost: %s", tag, ending.words
                )
                return
            logger.warning("the letter of message %s can't be written, trying on: %r", tag, error)
            _Postponed(self, message, tag, arguments).attach()
            return
        logger.info("message %s %s", tag, ending.words)

    def has_left(self, message: Any) -> bool:
        """Whether this attempt of a message that comes again has left its letter, so that only its ack is missing."""
        if not may_have_come(message):
            return False
        try:
            return bool(self.client.exists(self.keys.left(tag_of(message))))
        except (redis.RedisError, OSError) as error:
            logger.warning("can't tell whether a message has left its letter, it runs again: %r", error)
            return False

    def _arguments(self, message: Any, tag: str, ending: Ending) -> list[Argument]:
        again = "" if ending.again_in_s is None else f"{ending.again_in_s:.6f}"
        queue = queue_named(self._app, message.delivery_info)
        return [
            tag,
            ending.reason,
            ending.detail,
            ending.attempts,
            ending.tries,
            ending.exception,
            again,
            f"{self.keys.prefix}{queue}",
            text_of(message, tag),
            self._kind.value,
            MARK_S,
            int(may_have_come(message)),
        ]

    def _write(self, tag: str, arguments: list[Argument]) -> None:
        letter_script("leave")(self.client, [*self.keys.lease_book(), self.keys.left(tag)], arguments)


class _Postponed:
    """A message whose letter is still to be written. All in the consumer's thread."""

    def __init__(self, first: LetterFirst, message: Any, tag: str, arguments: list[Argument]) -> None:
        self._first, self._message = first, message
        self._tag, self._arguments = tag, arguments
        self._settle: Callable[..., Any] | None = None
        self._ack, self._reject = message.ack, message.reject
        self._options: dict[str, Any] = {}

    def attach(self) -> None:
        self._message.ack = self._acked
        self._message.reject = self._rejected
        self._first._later(RETRY_S, self._again)

    def _acked(self, *_: Any, **__: Any) -> None:
        self._settle = self._ack

    def _rejected(self, requeue: bool = False) -> None:
        self._settle, self._options = self._reject, {"requeue": requeue}

    def _again(self) -> None:
        try:
            self._first._write(self._tag, self._arguments)
        except (redis.RedisError, OSError):
            self._first._later(RETRY_S, self._again)
            return
        self._message.ack, self._message.reject = self._ack, self._reject
        if self._settle is None:
            return
        try:
            self._settle(**self._options)
        except Exception as error:  # noqa: BLE001 - of a connection that is gone, say
            logger.warning("message %s comes again, and has left its letter: %r", self._tag, error)
