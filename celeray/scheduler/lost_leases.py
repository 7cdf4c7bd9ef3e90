"""What a worker does about runs whose lease is lost: it ends them, and tells nobody, since the message is another's.

No acknowledgement, no state, no event of failure. Where a pool can't end a run by itself (threads, solo, gevent) the
fence alone protects: the run goes on to its end, and nothing that it yields is stored or published.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from signal import SIGKILL
from typing import Any
from weakref import WeakValueDictionary

from celery.worker import state as worker_state

from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.qos import QoS

logger = logging.getLogger(__name__)


class LostLeases:
    """Of one consumer."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._requests: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._books: set[int] = set()

    def watch(self, request: Any, leases: LeaseBook) -> None:
        """End this request's run should its lease be lost. Called in the consumer's thread."""
        self._requests[request.message.delivery_tag] = request
        if id(leases) in self._books:
            return
        self._books.add(id(leases))
        leases.on_lost.append(self._on_lost)
        leases.on_refused.append(self._on_lost)
        # The bridge tells those who supervise its runs how long they may go on.
        if watch := getattr(self._consumer.pool, "watch_leases", None):
            watch(leases)

    def _on_lost(self, tags: Sequence[str]) -> None:
        """From any thread."""
        self._consumer.call_soon(self._end, tuple(tags))

    def _end(self, tags: Sequence[str]) -> None:
        for tag in tags:
            if (request := self._requests.pop(tag, None)) is not None and not request.acknowledged:
                end_run(self._consumer.pool, request)


def end_run(pool: Any, request: Any) -> None:
    """End the run of a request whose lease is lost."""
    if lease_lost := getattr(pool, "lease_lost", None):
        lease_lost(request)
        return
    give_up(request)
    if request.time_start is not None:
        kill(pool, request)


def kill(pool: Any, request: Any) -> None:
    """Kill the process of a begun run, where the pool has one for it."""
    try:
        pool.terminate_job(request.worker_pid, SIGKILL)
    except NotImplementedError:
        logger.warning(
            "task %s[%s] lost its lease and can't be ended in this pool: what it yields is refused",
            request.name,
            request.id,
        )


def give_up(request: Any) -> None:
    """Off this worker's books, without a word to anybody. Again changes nothing.

    What is set is Celery's own: nothing is acknowledged, the end of a killed run says nothing, what has not begun does
    not begin, and no event is sent (celery/worker/request.py: `acknowledge`, `on_failure`, `revoked`, `send_event`).
    """
    request.acknowledged = request._already_cancelled = request._already_revoked = True
    request._eventer = None
    worker_state.task_ready(request)
    qos, tag = getattr(request.message.channel, "qos", None), request.message.delivery_tag
    if isinstance(qos, QoS):
        qos.leases.abandon(tag)
        qos.forget(tag)


def is_given_up(request: Any) -> bool:
    """Whether `give_up` was called for it."""
    return bool(request.acknowledged and request._already_cancelled and request._already_revoked)
