"""Catches a message where kombu would write it, and says what would be written: bytes and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from celeray.scheduler.errors import MessageTooLargeError, SubmissionError, SubmissionUnsupportedError


@dataclass(frozen=True, slots=True)
class Packed:
    """One message, as it will be in Redis."""

    payload: bytes
    lists: tuple[str, ...]
    """Keys; several where a topic leads to several queues."""
    expires: tuple[tuple[str, int], ...] = ()
    """Lists of queues that expire when idle, and their milliseconds."""


Accept = Callable[[Any, Packed], Any]
"""Called with the channel and the message, again after each lost connection."""


class _Sink:
    """In the place of kombu's own publish batch (`PublishBatch` in kombu/messaging.py)."""

    def __init__(self, accept: Accept) -> None:
        self._accept = accept

    def publish(self, channel: Any, message: Any, *, exchange: str, routing_key: str, **_: Any) -> Any:
        return self._accept(channel, pack(channel, message, exchange, routing_key))


@contextmanager
def caught(producer: Any, accept: Accept) -> Iterator[None]:
    """What this thread publishes through the producer meanwhile goes to `accept`, under kombu's own retries."""
    local = producer._batch_local
    before = getattr(local, "current", None)
    local.current = _Sink(accept)
    try:
        yield
    finally:
        local.current = before


def pack(channel: Any, message: Any, exchange: str, routing_key: str) -> Packed:
    """What `basic_publish` of the channel would write.

    Raises:
        SubmissionUnsupportedError: the channel is not one on Redis, or the exchange is a fanout.
        SubmissionError: nobody would get the message.
        MessageTooLargeError: larger than the leased transport's bound.
    """
    if not isinstance(channel, kombu_redis.Channel):
        raise SubmissionUnsupportedError("broker", type(channel).__module__, "a Redis broker")
    channel._inplace_augment_message(message, exchange, routing_key)
    payload = dumps(message).encode()
    queues = _queues(channel, exchange, routing_key)
    options = getattr(channel, "lease_options", None)
    if options is not None and len(payload) > options.max_message_bytes:
        raise MessageTooLargeError(queues[0], len(payload), options.max_message_bytes)
    priority, prefix = channel._get_message_priority(message, reverse=False), channel.global_keyprefix
    expires = tuple(
        (f"{prefix}{channel._q_for_pri(queue, step)}", channel._expires[queue])
        for queue in queues
        if queue in channel._expires
        for step in channel.priority_steps
    )
    return Packed(
        payload, tuple(f"{prefix}{channel._q_for_pri(queue, priority)}" for queue in queues), expires
    )


def _queues(channel: Any, exchange: str, routing_key: str) -> list[str]:
    if not exchange:
        return [routing_key]
    if channel.typeof(exchange).type == "fanout":
        raise SubmissionUnsupportedError("exchange", exchange, "no fanout: what is broadcast is not kept")
    queues = [str(queue) for queue in channel._lookup(exchange, routing_key) if queue]
    if not queues:
        raise SubmissionError("exchange", exchange, f"a queue bound to it by {routing_key!r}")
    return queues
