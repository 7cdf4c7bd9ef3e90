"""Collects what a batch will publish: all that `apply_async` does, up to the write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery import signals
from kombu import Exchange

from celeray.scheduler.submission.packing import Packed, pack
from celeray.scheduler.submission.writing import Item

_NOT_PROPERTIES = (
    "retry",
    "retry_policy",
    "event_dispatcher",
    "exchange_type",
    "timeout",
    "confirm_timeout",
    "mandatory",
    "immediate",
)
"""Options of a publish that mean nothing here."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One message of a batch."""

    item: Item
    after: Mapping[str, Any]
    """What `after_task_publish` is sent with."""
    sent_event: dict[str, Any] | None
    """Fields of the task-sent event."""


_collecting: ContextVar[BatchProducer | None] = ContextVar("celeray_collecting", default=None)
"""The batch that this thread's messages go to, though they come with another producer."""


def batch_of(producer: Any) -> BatchProducer | None:
    """The batch that a message belongs to. None: it is published by itself."""
    return producer if isinstance(producer, BatchProducer) else _collecting.get()


class BatchProducer:
    """Is given to `apply_async` as its producer. Belongs to one thread."""

    def __init__(self, producer: Any, amqp: Any, batch_id: str) -> None:
        self._producer = producer
        self._amqp = amqp
        self._batch_id = batch_id
        self._declared: set[str] = set()
        conf = amqp.app.conf
        # Each look into a conf takes some 10 us.
        self._policy = dict(conf.task_publish_retry_policy or {})
        self._compression, self._delivery_mode = conf.task_compression, conf.task_default_delivery_mode
        self.collected: list[Collected] = []

    @property
    def connection(self) -> Any:
        return self._producer.connection

    @property
    def channel(self) -> Any:
        return self._producer.channel

    @property
    def serializer(self) -> Any:
        return self._producer.serializer

    def collect(self, publisher: Any, name: str, message: Any, options: dict[str, Any]) -> None:
        """In the place of Celery's `send_task_message` (celery/app/amqp.py), which this follows.

        Raises:
            RequirementError, SubmissionError, MessageTooLargeError: as for a single task.
        """
        prepared = publisher.prepare(name, message, options)
        terms = publisher.terms(name, message, prepared, self._batch_id)
        headers, properties, body, sent_event = message
        address = self._address(prepared)
        headers.update(prepared.pop("headers"))
        for used in _NOT_PROPERTIES:
            prepared.pop(used, None)
        written = {key: prepared.pop(key, None) for key in ("serializer", "compression", "delivery_mode")}
        properties.update(prepared)
        target = {"exchange": address.exchange, "routing_key": address.routing_key}
        with collecting(None):
            signals.before_task_publish.send(
                sender=name,
                body=body,
                declare=address.declare,
                headers=headers,
                properties=properties,
                retry_policy=self._policy,
                **target,
            )
        packed = self._pack(body, headers, properties, address, written)
        if sent_event is not None:
            sent_event.update(queue=address.queue, **target)
        after = {"sender": name, "body": body, "headers": headers, **target}
        self.collected.append(Collected(Item(packed, terms), after, sent_event))

    def _address(self, options: dict[str, Any]) -> _Address:
        amqp, exchange, key = self._amqp, options.pop("exchange", None), options.pop("routing_key", None)
        queue, declare = options.pop("queue", None), options.pop("declare", None)
        if queue is None and exchange is None:
            queue = amqp.default_queue
        if isinstance(queue, str):
            queue = amqp.queues[queue]
        kind = (
            options.get("exchange_type")
            or getattr(getattr(queue, "exchange", None), "type", None)
            or "direct"
        )
        if (not exchange or not key) and kind == "direct":
            exchange, key = "", queue.name
        elif exchange is None:
            exchange = queue.exchange.name or amqp.default_exchange
            key = key or queue.routing_key or amqp.app.conf.task_default_routing_key
        exchange = exchange.name if isinstance(exchange, Exchange) else exchange
        return _Address(
            exchange,
            key,
            queue and queue.name,
            ([queue] if queue else []) if declare is None else declare,
            getattr(getattr(queue, "exchange", None), "delivery_mode", None),
        )

    def _pack(
        self, body: Any, headers: Any, properties: Any, address: _Address, written: dict[str, Any]
    ) -> Packed:
        producer, channel = self._producer, self._producer.channel
        mode = written["delivery_mode"] or address.delivery_mode or self._delivery_mode
        _, properties["delivery_mode"] = producer._delivery_details(address.exchange, mode)
        if (expiration := properties.pop("expiration", None)) is not None:
            properties["expiration"] = str(int(expiration * 1000))
        compression = written["compression"] or self._compression
        content = producer._prepare(body, written["serializer"], None, None, compression, headers)
        for entity in self._undeclared(address.declare):
            producer.maybe_declare(entity)
        priority = properties.pop("priority", None)
        message = channel.prepare_message(content[0], priority, content[1], content[2], headers, properties)
        return pack(channel, message, address.exchange, address.routing_key)

    def _undeclared(self, entities: Any) -> list[Any]:
        """Those that this batch has not declared yet."""
        new = [entity for entity in entities if entity.name not in self._declared]
        self._declared.update(entity.name for entity in new)
        return new


@contextmanager
def collecting(batch: BatchProducer | None) -> Iterator[None]:
    """All that this thread sends goes to the batch: a chain drops the producer that it is given (celery/canvas.py)."""
    token = _collecting.set(batch)
    try:
        yield
    finally:
        _collecting.reset(token)


@dataclass(frozen=True, slots=True)
class _Address:
    exchange: str
    routing_key: str
    queue: str | None
    declare: list[Any]
    delivery_mode: Any
