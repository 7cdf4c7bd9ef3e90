"""Writes what is left of a message: under its lease together with the ack, or, where it has none, before that.

Without a lease it is idempotent by the message's tag, which is new with each attempt. Where the broker is no Redis,
`letter_first` does it.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from kombu.transport.redis import Channel as RedisChannel
from kombu.utils.json import dumps

from celeray.scheduler.backoff import RetryPolicy
from celeray.scheduler.endings.host_memory import OutOfMemoryKills, RecentKills
from celeray.scheduler.endings.letter_first import LetterFirst
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import HEADER, Attempts
from celeray.scheduler.letters.envelope import UnreadableLetterError, with_header
from celeray.scheduler.parked import ParkReason
from celeray.scheduler.settings import Settings
from celeray.scheduler.transport.ending import Ending, end_unleased
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.message import Payload
from celeray.scheduler.transport.qos import QoS

logger = logging.getLogger(__name__)


NEVER_RUN = frozenset({ParkReason.BAD_REQUEST, ParkReason.NEVER_FITS})


class Writer:
    """Of one worker."""

    def __init__(self, settings: Settings, *, sends_again: bool, first: LetterFirst | None = None) -> None:
        """
        Args:
            sends_again: there is a Redis, which can keep messages until they are due.
            first: for messages of a broker that is none.
        """
        self._first = first
        self._settings = settings
        self.sends_again = sends_again
        self.kills = RecentKills(OutOfMemoryKills())
        self._policies: dict[str, RetryPolicy | None] = {}

    def policy_of(self, task: str) -> RetryPolicy | None:
        """The policy that retries a task. None: none does."""
        if task not in self._policies:
            self._policies[task] = self._settings.retry_policy_of(task) if self.sends_again else None
        return self._policies[task]

    def park(self, message: Any, reason: ParkReason, attempts: Attempts, detail: str) -> None:
        """Leave a dead letter, unless it is of a task that has run, and the settings want none of those."""
        if self._settings.failed_task_letters or reason in NEVER_RUN:
            self._end(message, _ending(reason, attempts, detail, None))

    def retry(self, message: Any, reason: ParkReason, attempts: Attempts, detail: str, in_s: float) -> None:
        """Have the message sent again; `reason` is why it would be parked otherwise."""
        self._end(message, _ending(reason, attempts, detail, in_s))

    def give_back(self, message: Any, attempts: Attempts) -> None:
        """Let a message that is requeued tell of the run that was lost. Without a lease it goes back as it is."""
        lease, text = _lease_of(message), _text_of(message)
        if lease is None:
            return
        try:
            lease.returned_as = with_header(text, HEADER, attempts.header())
        except UnreadableLetterError as error:
            logger.warning("message %s does not tell of its lost run: %s", lease.tag, error)

    def _end(self, message: Any, ending: Ending) -> None:
        lease = _lease_of(message)
        if lease is not None:
            lease.ending = ending
        elif isinstance(message.channel, RedisChannel):
            self._end_unleased(message, ending)
        elif self._first is not None:
            self._first.leave(message, ending)

    def _end_unleased(self, message: Any, ending: Ending) -> None:
        channel, tag = message.channel, str(message.properties.get("delivery_tag"))
        keys = Keys(prefix=channel.global_keyprefix, separator=channel.sep)
        client = redis.Redis(connection_pool=channel.pool)
        try:
            end_unleased(client, keys, tag, ending, _list_of(message), _text_of(message))
        except (redis.RedisError, OSError):
            if not message.acknowledged:
                # It stays held, and comes again when the connection is made anew.
                raise
            logger.exception("message %s had been acknowledged, and its end is lost: %s", tag, ending.words)


def _ending(reason: ParkReason, attempts: Attempts, detail: str, again_in_s: float | None) -> Ending:
    last = attempts.last
    exception = "" if last is None else last.exception
    return Ending(reason.value, detail, attempts.packed(), attempts.total, exception, again_in_s)


def _lease_of(message: Any) -> Lease | None:
    qos = getattr(message.channel, "qos", None)
    return qos.leases.get(message.delivery_tag) if isinstance(qos, QoS) else None


def _text_of(message: Any) -> bytes:
    """The message as it was on its list; of kombu's own transport, which does not keep it, as kombu writes it."""
    raw = message._raw
    if isinstance(raw, Payload):
        return raw.text
    return str(dumps(raw)).encode()


def _list_of(message: Any) -> str:
    """The list that the message was taken from. Empty where its exchange leads to several queues."""
    channel, delivery = message.channel, message.delivery_info
    queues = channel._lookup(delivery.get("exchange"), delivery.get("routing_key"))
    if len(queues) != 1:
        return ""
    priority = channel._get_message_priority(message._raw, reverse=False)
    return f"{channel.global_keyprefix}{channel._q_for_pri(queues[0], priority)}"
