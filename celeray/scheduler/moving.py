"""Takes a message that a worker holds and puts it elsewhere, or back, without a moment in which it is nowhere.

On Redis one script takes it out of the messages held and pushes it, and only if it is still held: one that was
restored meanwhile is somebody else's. The leased transport has such scripts itself. Elsewhere it is published first
and acknowledged after, so a crash between the two leaves it twice, never lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from celery.worker import state
from kombu.transport import virtual
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import QoS as RedisQoS
from kombu.utils.json import dumps

from celeray.scheduler import priorities
from celeray.scheduler.letters.envelope import UnreadableLetterError, with_header
from celeray.scheduler.preempted import HEADER, PutBack
from celeray.scheduler.topology import ANONYMOUS
from celeray.scheduler.transport.channel import Channel as LeasedChannel

FRONT, BACK = "RPUSH", "LPUSH"
"""Consumers pop from the right end of a list."""

# KEYS: hash of messages held, sorted set of the times they were taken, list to push to.
# ARGV: delivery tag, push command, message. Returns 1, or 0 where the message was not held any more.
_TAKE_AND_PUSH = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call(ARGV[2], KEYS[3], ARGV[3])
return 1
"""


def move(request: Any, queue: str, priority: int) -> bool:
    """Move a message to the back of another queue, at an API priority. The request is done with then.

    Args:
        request: a worker's `Request` (celery/worker/request.py) that has not begun.

    Returns:
        False where the message was not held any more, so there was nothing to move.

    Raises:
        the transport's connection errors: the message is then still held, unless the reply alone was lost.
    """
    broker = priorities.to_broker(priority, lowest_first=request.app.amqp.broker_kind.lowest_first)
    channel = request.message.channel
    if not _keeps_held_messages_in_redis(channel):
        _publish(request, queue, broker, priority)
        _done(request)
        request.acknowledge()
        return True
    raw = request.message._raw
    moved = {
        **raw,
        "headers": {**raw["headers"], priorities.HEADER: priority},
        "properties": {
            **raw["properties"],
            "priority": broker,
            "delivery_info": {
                **raw["properties"]["delivery_info"],
                "exchange": ANONYMOUS,
                "routing_key": queue,
            },
        },
    }
    return _take_and_push(request, channel, queue, moved, BACK)


def give_back(request: Any) -> bool:
    """Put a message back at the front of its queue, at its own priority, as if it had never been fetched.

    Returns:
        False where the message was not held any more, so there was nothing to give back.

    Raises:
        the transport's connection errors, as `move`.
    """
    channel, delivery = request.message.channel, request.message.delivery_info
    if isinstance(channel, LeasedChannel):
        given = channel.give_back_held(request.message.delivery_tag)
        _settled(request)
        return given
    if _keeps_held_messages_in_redis(channel):
        queues = channel._lookup(delivery.get("exchange"), delivery.get("routing_key"))
        # A topic may lead to several queues, and the message tells not which of them it was fetched from.
        if len(queues) == 1:
            return _take_and_push(request, channel, queues[0], request.message._raw, FRONT)
    _done(request)
    request.reject(requeue=True)
    return True


def put_back(request: Any, mark: PutBack) -> None:
    """As `give_back`, of a message on the leased transport, which tells of `mark` from now on; its run has begun.

    Where Redis does not answer, the message comes again when its lease ends, without the mark. A text that is no
    envelope goes back as it is.
    """
    channel, tag = request.message.channel, request.message.delivery_tag
    try:
        text = with_header(request.message._raw.text, HEADER, mark.header(request.message.headers))
    except UnreadableLetterError:
        give_back(request)
        return
    channel.qos.put_back(tag, text)
    _settled(request)


def give_back_all(requests: Sequence[Any]) -> None:
    """As `give_back`, of several, in the order in which they were fetched, which they keep.

    Raises:
        the transport's connection errors: on the leased transport nothing is settled then.
    """
    held: dict[Any, list[Any]] = {}
    # In front of each other, so the last one first.
    for request in reversed(requests):
        if isinstance(channel := request.message.channel, LeasedChannel):
            held.setdefault(channel, []).append(request)
        else:
            give_back(request)
    for channel, leased in held.items():
        channel.qos.give_back_all([request.message.delivery_tag for request in leased])
        for request in leased:
            _settled(request)


def _keeps_held_messages_in_redis(channel: Any) -> bool:
    return isinstance(channel, RedisChannel) and isinstance(channel.qos, RedisQoS)


def _take_and_push(request: Any, channel: Any, queue: str, raw: Mapping[str, Any], push: str) -> bool:
    if isinstance(channel, LeasedChannel):
        taken = channel.move_held(request.message.delivery_tag, queue, raw, front=push == FRONT)
        _settled(request)
        return taken
    # A tag of its own, so that whoever holds the message next is not mixed up with this worker.
    properties = {**raw["properties"], "delivery_tag": channel._next_delivery_tag()}
    target = channel._q_for_pri(queue, channel._get_message_priority(raw, reverse=False))
    prefix = channel.global_keyprefix
    # kombu's own client knows not where a script's keys are, so the keys are prefixed here and the client is plain.
    client: Any = redis.Redis(connection_pool=channel.pool)
    keys = [f"{prefix}{key}" for key in (channel.unacked_key, channel.unacked_index_key, target)]
    payload = dumps({**raw, "properties": properties})
    taken = client.eval(_TAKE_AND_PUSH, len(keys), *keys, request.message.delivery_tag, push, payload)
    virtual.QoS.ack(channel.qos, request.message.delivery_tag)
    _settled(request)
    return bool(taken)


def _settled(request: Any) -> None:
    request.acknowledged = True
    _done(request)


def _done(request: Any) -> None:
    """Off the worker's book of reserved requests: it will not run here."""
    state.task_ready(request)


def _publish(request: Any, queue: str, broker_priority: int, priority: int) -> None:
    """Publish a copy, and wait for the broker's confirmation where it gives one (AMQP)."""
    message, amqp = request.message, request.app.amqp
    kept = ("correlation_id", "reply_to", "expiration", "delivery_mode")
    properties = {key: value for key in kept if (value := message.properties.get(key)) is not None}
    headers = {key: value for key, value in message.headers.items() if key != "compression"}
    with request.app.producer_or_acquire() as producer:
        channel = producer.channel
        producer.maybe_declare(amqp.queues[queue])
        copy = channel.prepare_message(
            message.body,
            broker_priority,
            message.content_type,
            message.content_encoding,
            {**headers, priorities.HEADER: priority},
            properties,
        )
        publish = getattr(channel, "basic_publish_confirm", channel.basic_publish)
        publish(copy, exchange=ANONYMOUS, routing_key=queue)
