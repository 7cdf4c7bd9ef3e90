"""Keeps the messages that a living worker holds from being delivered to another one.

Stock kombu gives a message back when it has been held for longer than `visibility_timeout`, whether it waits for a
device, runs for hours, or its worker is dead (kombu/transport/redis.py, `restore_visible`). Here its time is renewed
while the worker lives, so the timeout measures only how long a worker was silent.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from celery import bootsteps
from celery.worker.consumer.tasks import Tasks
from kombu.transport.redis import QoS as StockQoS

logger = logging.getLogger(__name__)

RENEWALS = 3
"""In one visibility timeout: two may fail."""


class KeepHeld(bootsteps.StartStopStep):
    """In each worker of an installed app, on kombu's own Redis transport; others renew by themselves."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        if type(getattr(channel, "qos", None)) is not StockQoS:
            return
        interval = channel.visibility_timeout / RENEWALS
        self._entry = consumer.timer.call_repeatedly(interval, renew, (channel,))

    def stop(self, consumer: Any) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            consumer.timer.cancel(entry)


def renew(channel: Any) -> int:
    """Set the time of every message that the channel holds to now; returns how many it holds.

    XX: a message that was acknowledged or given back meanwhile does not come into the index again.
    """
    tags = list(channel.qos._delivered or ())
    if not tags:
        return 0
    now = time.time()
    try:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(tags, now), xx=True)
    except redis.RedisError as error:
        logger.warning("%d held messages were not renewed: %s", len(tags), error)
    return len(tags)
