"""Queues, exchanges and priorities as the broker knows them.

On Redis, and on every other transport that kombu emulates, no exchange is named: a queue bound to a named exchange
lives by a `_kombu.binding.*` key, and without that key a publish succeeds and goes nowhere (`get_table` in
kombu/transport/redis.py). The anonymous exchange delivers to the queue named by the routing key and needs no binding.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from kombu import Connection, Exchange, Queue
from kombu.transport import virtual

from celeray.scheduler import priorities
from celeray.scheduler.keys import BROKER_PRIORITIES
from celeray.scheduler.settings import Settings

PRIORITY_STEPS = list(BROKER_PRIORITIES)
"""Kombu's transport option on Redis; its own default makes four lists of ten priorities. Kombu looks into the queues
step by step, and within a step in turns, so its default `queue_order_strategy` is right: urgent is first everywhere."""
ANONYMOUS = ""
"""Name of the exchange that delivers to the queue named by the routing key."""


class BrokerKind(StrEnum):
    """What decides about exchanges and the sense of priorities."""

    REDIS = "redis"
    """Anonymous exchange; 0 is served first."""
    EMULATED = "emulated"
    """Another transport on kombu's virtual base, `memory://` say: anonymous exchange; the highest is served first."""
    AMQP = "amqp"
    """Named exchanges; the highest is served first."""

    @property
    def lowest_first(self) -> bool:
        """Whether broker priority 0 is the most urgent."""
        return self is BrokerKind.REDIS

    @property
    def anonymous(self) -> bool:
        """Whether queues must not be bound to a named exchange."""
        return self is not BrokerKind.AMQP


def kind_of_connection(connection: Connection) -> BrokerKind:
    """Kind of the broker that a connection is for. Does not connect."""
    transport = connection.get_transport_cls()
    if transport.driver_type == "redis":
        return BrokerKind.REDIS
    return BrokerKind.EMULATED if issubclass(transport, virtual.Transport) else BrokerKind.AMQP


def kind_of_conf(conf: Any) -> BrokerKind:
    """Kind of the broker that a Celery app's conf names."""
    return kind_of_connection(Connection(conf.broker_write_url, transport=conf.broker_transport))


def contract_queues(settings: Settings, kind: BrokerKind) -> list[Queue]:
    """The queues of the contract, declared for the broker's kind."""
    return [_queue(name, settings, kind) for name in settings.queues]


def _queue(name: str, settings: Settings, kind: BrokerKind) -> Queue:
    if kind.anonymous:
        return Queue(name, Exchange(ANONYMOUS), routing_key=name)
    exchange = Exchange(_exchange_name(name, settings), type="direct", durable=True)
    return Queue(name, exchange, routing_key=name, durable=True, max_priority=priorities.MOST)


def _exchange_name(queue: str, settings: Settings) -> str:
    prefix = settings.amqp_exchange
    if queue == settings.priority_queue:
        return f"{prefix}.priority"
    return f"{prefix}.dlq" if queue == settings.dead_letter_queue else prefix
