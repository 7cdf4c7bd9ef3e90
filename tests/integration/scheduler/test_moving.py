"""Messages that a worker holds are moved and given back in one step, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.worker import state
from celery.worker.request import Request

import celeray
from celeray.scheduler.moving import give_back, move

STEP = "\x06\x16"


class Broker:
    """An app, what it publishes, and what is in Redis."""

    def __init__(self, url: str, transport: str = "kombu", **options: Any) -> None:
        self.prefix = options.get("global_keyprefix", "")
        self.app = Celery("moving", broker=url, backend=url, set_as_current=False)
        self.app.conf.broker_transport_options = options
        self.app.conf.celeray_transport = transport
        celeray.install(self.app)

        @self.app.task(shared=False, name="moving.task")
        def task(*args: Any) -> None: ...

        self.redis = redis.Redis.from_url(url)
        self.connection = self.app.connection_for_read()
        self.channel = self.connection.default_channel

    def close(self) -> None:
        self.connection.close()
        self.redis.close()
        self.app.close()

    def publish(self, queue: str, number: int, priority: int = 5) -> None:
        self.app.tasks["moving.task"].apply_async((number,), queue=queue, priority=priority)

    def hold(self, queue: str) -> Request:
        """Fetch the next message as a worker does."""
        message = self.channel.basic_get(queue)
        message.accept = {"application/json", "application/x-msgpack"}
        request = Request(
            message,
            app=self.app,
            task=self.app.tasks["moving.task"],
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
        )
        state.task_reserved(request)
        return request

    def on_list(self, key: str) -> list[dict[str, Any]]:
        """Messages on a list, the next to be fetched first."""
        return [json.loads(item) for item in self.redis.lrange(f"{self.prefix}{key}", 0, -1)][::-1]

    def held(self) -> tuple[int, int]:
        return self.redis.hlen(f"{self.prefix}unacked"), self.redis.zcard(f"{self.prefix}unacked_index")


@pytest.fixture(params=["", "team-a:"])
def broker(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Broker]:
    made = Broker(redis_url, **({"global_keyprefix": request.param} if request.param else {}))
    yield made
    made.close()


def assert_done(request: Request) -> None:
    assert request.acknowledged
    assert request not in state.reserved_requests
    assert request.id not in state.requests


def test_a_moved_message_is_behind_the_others_of_its_priority(broker: Broker) -> None:
    broker.publish("gpu.generation", 1, priority=10)
    broker.publish("priority", 2, priority=3)
    request = broker.hold("priority")
    assert broker.held() == (1, 1)
    assert move(request, "gpu.generation", 10)
    first, moved = broker.on_list("gpu.generation")
    assert first["headers"]["argsrepr"] == "(1,)"
    assert moved["headers"]["id"] == request.id
    assert moved["headers"]["celeray_priority"] == 10
    assert moved["properties"]["priority"] == 0
    assert moved["properties"]["delivery_info"] == {"exchange": "", "routing_key": "gpu.generation"}
    assert broker.held() == (0, 0)
    assert broker.on_list(f"priority{STEP}7") == []
    assert_done(request)


def test_a_given_back_message_is_first_again_and_unchanged(broker: Broker) -> None:
    for number in (1, 2):
        broker.publish("cpu.analysis", number, priority=7)
    key = f"cpu.analysis{STEP}3"
    before = broker.on_list(key)
    request = broker.hold("cpu.analysis")
    assert give_back(request)
    after = broker.on_list(key)
    assert before[0]["properties"].pop("delivery_tag") != after[0]["properties"].pop("delivery_tag")
    assert before == after
    assert broker.held() == (0, 0)
    assert_done(request)


def test_it_can_be_fetched_and_given_back_again_and_again(broker: Broker) -> None:
    broker.publish("cpu.analysis", 1)
    for _ in range(3):
        request = broker.hold("cpu.analysis")
        assert give_back(request)
    assert len(broker.on_list(f"cpu.analysis{STEP}5")) == 1
    assert not broker.on_list(f"cpu.analysis{STEP}5")[0]["headers"].get("redelivered")


@pytest.mark.parametrize("act", [give_back, lambda request: move(request, "cpu.thumbnail", 5)])
def test_what_is_held_no_more_is_left_to_whoever_has_it(broker: Broker, act: Any) -> None:
    broker.publish("cpu.analysis", 1)
    request = broker.hold("cpu.analysis")
    broker.channel.qos.restore_by_tag(request.message.delivery_tag)
    assert not act(request)
    assert len(broker.on_list(f"cpu.analysis{STEP}5")) == 1
    assert broker.on_list(f"cpu.thumbnail{STEP}5") == []
    assert_done(request)


def test_the_channel_restores_nothing_of_it_when_it_closes(broker: Broker) -> None:
    broker.publish("cpu.analysis", 1)
    give_back(broker.hold("cpu.analysis"))
    broker.connection.close()
    assert len(broker.on_list(f"cpu.analysis{STEP}5")) == 1


def test_a_message_of_a_stock_producer_keeps_its_unset_priority(broker: Broker, redis_url: str) -> None:
    if broker.prefix:
        pytest.skip("the stock producer has no prefix")
    with Celery(broker=redis_url, set_as_current=False) as stock:
        stock.send_task("moving.task", (1,), queue="cpu.analysis", ignore_result=True)
    request = broker.hold("cpu.analysis")
    assert give_back(request)
    [message] = broker.on_list("cpu.analysis")
    assert "celeray_priority" not in message["headers"]


def test_while_redis_is_away_nothing_is_settled(broker: Broker) -> None:
    broker.publish("cpu.analysis", 1)
    request = broker.hold("cpu.analysis")
    away = redis.ConnectionPool(host="127.0.0.1", port=1)
    broker.channel._pool, pool = away, broker.channel._pool
    with pytest.raises(redis.ConnectionError):
        give_back(request)
    assert not request.acknowledged
    broker.channel._pool = pool
    assert give_back(request)
