"""Renewing what a worker holds on kombu's own transport."""

from __future__ import annotations

import kombu
import pytest
import redis

from celeray.scheduler.holding import renew

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


def test_held_messages_are_renewed_and_acknowledged_ones_do_not_come_back(redis_url: str) -> None:
    with kombu.Connection(redis_url) as connection, redis.Redis.from_url(redis_url) as client:
        queue = connection.SimpleQueue("q")
        for number in range(2):
            queue.put(number)
        held, done = queue.get(timeout=5), queue.get(timeout=5)
        channel = held.channel
        index = channel.unacked_index_key
        client.zadd(index, {held.delivery_tag: 1.0, done.delivery_tag: 1.0})
        done.ack()
        assert renew(channel) >= 1
        assert client.zscore(index, held.delivery_tag) > 1_000_000
        assert client.zscore(index, done.delivery_tag) is None
        held.ack()
        queue.close()
