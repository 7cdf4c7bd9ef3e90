"""Requests that have not begun are taken out of each place where a worker keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.asynchronous.timer import Timer
from kombu.utils.limits import TokenBucket

from celeray.scheduler.unbegun import withdraw_unbegun


class Request:
    """What is read of a worker's request."""

    _eta_timer_entry: Any = None

    def __init__(self, fence: int, queue: str) -> None:
        self.message = SimpleNamespace(fence=fence)
        self.delivery_info = {"exchange": "", "routing_key": queue}
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues={}))


class Credit:
    """Celery's count of how many messages may be held."""

    def __init__(self) -> None:
        self.less = 0

    def decrement_eventually(self) -> None:
        self.less += 1


@pytest.fixture
def consumer() -> Iterator[Any]:
    semaphore = LaxBoundedSemaphore(1)
    buckets: dict[str, Any] = {"free": None, "limited": TokenBucket(1)}
    yield SimpleNamespace(
        controller=SimpleNamespace(semaphore=semaphore), task_buckets=buckets, timer=Timer(), qos=Credit()
    )
    state.scheduled_requests.clear()


def test_from_the_semaphore_of_a_pool(consumer: Any) -> None:
    begun: list[Request] = []
    requests = [Request(1, "p"), Request(2, "p"), Request(3, "q"), Request(4, "p")]
    for request in requests:
        consumer.controller.semaphore.acquire(begun.append, request)
    assert withdraw_unbegun(consumer, {"p"}) == [requests[1], requests[3]]
    consumer.controller.semaphore.release()
    consumer.controller.semaphore.release()
    assert begun == [requests[0], requests[2]]


def test_from_the_timer(consumer: Any) -> None:
    begun: list[Request] = []
    requests = [Request(2, "p"), Request(1, "p"), Request(3, "q")]
    for request in requests:
        request._eta_timer_entry = consumer.timer.call_after(0, begun.append, (request,))
        state.scheduled_requests.add(request)
    assert withdraw_unbegun(consumer, {"p"}) == [requests[1], requests[0]]
    assert consumer.qos.less == 2
    assert set(state.scheduled_requests) == {requests[2]}
    for _delay, entry in consumer.timer:
        if entry is not None:
            entry()
        if begun:
            break
    assert begun == [requests[2]]


def test_from_the_bucket_of_a_rate_limit_once_also_where_its_eta_has_come(consumer: Any) -> None:
    requests = [Request(1, "q"), Request(2, "p")]
    for request in requests:
        consumer.task_buckets["limited"].add((request, 1))
    requests[1]._eta_timer_entry = consumer.timer.call_after(60, print)
    state.scheduled_requests.add(requests[1])
    assert withdraw_unbegun(consumer, {"p"}) == [requests[1]]
    assert consumer.qos.less == 0
    assert [request for request, _ in consumer.task_buckets["limited"].contents] == [requests[0]]


def test_without_a_semaphore(consumer: Any) -> None:
    consumer.controller.semaphore = None
    assert withdraw_unbegun(consumer, {"p"}) == []
