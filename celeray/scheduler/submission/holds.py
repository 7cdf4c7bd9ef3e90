"""In every worker of an installed app: lets go of dedup keys where the acknowledgement does not do it.

On the leased transport the key goes in the script that acknowledges or parks the message. Two cases are left. Kombu's
own transport knows nothing of keys: there each is released right after the acknowledgement, if the message still
holds it. And a task that is acknowledged early has not ended then: its key is released at the end of its run. A worker
that dies in between leaves the key until `dedup_hold_max_s`.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import redis
from celery import bootsteps
from celery.worker.consumer.tasks import Tasks
from kombu.transport.redis import QoS as StockQoS

from celeray.scheduler.keys import Keys
from celeray.scheduler.submission.deduplication import HOLD_HEADER
from celeray.scheduler.submission.writing import release
from celeray.scheduler.transport.qos import QoS as LeasedQoS

logger = logging.getLogger(__name__)

_KEPT = "celeray_hold_kept"
"""Attribute of a message whose key outlives its acknowledgement."""


class ReleaseHolds(bootsteps.StartStopStep):
    """Consumer step. Stands before what handles requests, and on kombu's transport behind the acks."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        consumer.on_task_request = EarlyAcks(consumer.on_task_request)

    def start(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        if type(getattr(channel, "qos", None)) is StockQoS:
            watch_acks(channel)


class EarlyAcks:
    """Stands before a consumer's `on_task_request`: of tasks that are acknowledged before they run."""

    def __init__(self, handle: Callable[[Any], Any]) -> None:
        self._handle = handle

    def __call__(self, request: Any) -> Any:
        hold = request.message.headers.get(HOLD_HEADER)
        if isinstance(hold, str) and not request.task.acks_late:
            _keep_until_end(request, hold)
        return self._handle(request)


def _keep_until_end(request: Any, hold: str) -> None:
    channel, message = request.message.channel, request.message
    if isinstance(getattr(channel, "qos", None), LeasedQoS):
        if (lease := channel.leases.get(message.delivery_tag)) is not None:
            lease.hold = ""
    else:
        setattr(message, _KEPT, True)
    made_by, weak = type(request), weakref.ref(request)
    # Another step may have put its own there; those hold the request weakly, too.
    failed = vars(request).get("on_failure")

    def on_failure(exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return (failed or made_by.on_failure.__get__(weak()))(exc_info, *args, **kwargs)
        finally:
            let_go(channel, hold)

    def on_success(*args: Any, **kwargs: Any) -> Any:
        try:
            return made_by.on_success(weak(), *args, **kwargs)
        finally:
            let_go(channel, hold)

    def on_timeout(soft: bool, timeout: float) -> Any:
        try:
            return made_by.on_timeout(weak(), soft, timeout)
        finally:
            if not soft:
                let_go(channel, hold)

    request.on_failure, request.on_success, request.on_timeout = on_failure, on_success, on_timeout


def watch_acks(channel: Any) -> None:
    """On kombu's own Redis channel: release after each message that leaves it for good. Again changes nothing."""
    qos = channel.qos
    if "ack" in vars(qos):
        return

    def ack(delivery_tag: str) -> None:
        hold = _held_by(qos, delivery_tag)
        StockQoS.ack(qos, delivery_tag)
        if hold:
            let_go(channel, hold)

    def reject(delivery_tag: str, requeue: bool = False) -> None:
        hold = None if requeue else _held_by(qos, delivery_tag)
        StockQoS.reject(qos, delivery_tag, requeue=requeue)
        if hold:
            let_go(channel, hold)

    qos.ack, qos.reject = ack, reject


def _held_by(qos: Any, delivery_tag: str) -> str | None:
    message = (qos._delivered or {}).get(delivery_tag)
    headers = getattr(message, "headers", None)
    hold = headers.get(HOLD_HEADER) if isinstance(headers, dict) else None
    return hold if isinstance(hold, str) and not hasattr(message, _KEPT) else None


def let_go(channel: Any, hold: str) -> None:
    """Release one hold now. Where Redis does not answer, the key is free after `dedup_hold_max_s`."""
    client = redis.Redis(connection_pool=channel.pool)
    try:
        release(client, Keys(prefix=channel.global_keyprefix), [hold])
    except (redis.RedisError, OSError) as error:
        logger.warning("the dedup key of a task was not released, it ends by itself: %r", error)
