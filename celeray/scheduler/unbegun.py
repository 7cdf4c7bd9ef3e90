"""Where a Celery worker keeps requests that have not begun, and how they are taken out of there.

There are three such places before the pool: the timer, for those with an eta; the token bucket of a task with a rate
limit; and the semaphore before a prefork pool. What is in the pool already begins at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from celery.worker import state

from celeray.scheduler.receiving import queue_of


def withdraw_unbegun(consumer: Any, queues: Collection[str]) -> list[Any]:
    """Take requests of some queues out of a worker, which then never begins them. In the consumer's thread only.

    Returns:
        The requests; their messages are still held, and nothing was told about them.
    """
    found = [
        *_from_buckets(consumer, queues),
        *_from_semaphore(consumer.controller.semaphore, queues),
        *_from_timer(consumer, queues),
    ]
    return sorted(found, key=lambda request: getattr(request.message, "fence", None) or 0)


def _from_buckets(consumer: Any, queues: Collection[str]) -> Iterator[Any]:
    for bucket in consumer.task_buckets.values():
        for item in list(bucket.contents) if bucket is not None else ():
            request, _tokens = item
            if queue_of(request) in queues:
                bucket.contents.remove(item)
                # It is there as well where its eta has come before.
                state.scheduled_requests.discard(request)
                yield request


def _from_semaphore(semaphore: Any, queues: Collection[str]) -> Iterator[Any]:
    waiting: Any = semaphore._waiting if semaphore is not None else ()
    for item in list(waiting):
        _callback, arguments, _options = item
        # Only requests wait there (celery/worker/worker.py, `_process_task_sem`).
        if queue_of(arguments[0]) in queues:
            waiting.remove(item)
            yield arguments[0]


def _from_timer(consumer: Any, queues: Collection[str]) -> Iterator[Any]:
    for request in list(state.scheduled_requests):
        entry = getattr(request, "_eta_timer_entry", None)
        if entry is None or queue_of(request) not in queues:
            continue
        consumer.timer.cancel(entry)
        consumer.qos.decrement_eventually()
        state.scheduled_requests.discard(request)
        yield request
