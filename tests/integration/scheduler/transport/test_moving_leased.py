"""Moving and giving back a worker's request, under a lease."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

import celeray
from celeray.scheduler.moving import give_back, move
from celeray.scheduler.settings import Settings
from celeray.scheduler.transport.channel import Channel
from tests.integration.scheduler.test_moving import STEP, Broker, assert_done

LIST = f"cpu.analysis{STEP}5"


@pytest.fixture(params=["", "team-a:"])
def moving(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Broker]:
    options = {"global_keyprefix": request.param} if request.param else {}
    made = Broker(redis_url, transport="leased", **options)
    assert isinstance(made.channel, Channel)
    yield made
    made.close()


def test_given_back_it_is_first_again_byte_for_byte(moving: Broker) -> None:
    moving.publish("cpu.analysis", 1)
    moving.publish("cpu.analysis", 2)
    before = moving.on_list(LIST)
    for _ in range(3):
        request = moving.hold("cpu.analysis")
        assert give_back(request)
        assert_done(request)
        assert moving.on_list(LIST) == before
    assert moving.held() == (0, 0)


def test_moved_it_is_behind_the_others_of_its_priority(moving: Broker) -> None:
    moving.publish("gpu.generation", 1, priority=10)
    moving.publish("priority", 2, priority=3)
    request = moving.hold("priority")
    assert move(request, "gpu.generation", 10)
    first, moved = moving.on_list("gpu.generation")
    assert first["headers"]["argsrepr"] == "(1,)"
    assert moved["headers"]["id"] == request.id
    assert moved["properties"]["delivery_info"] == {"exchange": "", "routing_key": "gpu.generation"}
    assert moving.held() == (0, 0)
    assert_done(request)


@pytest.mark.parametrize("act", [give_back, lambda request: move(request, "cpu.thumbnail", 5)])
def test_what_is_held_no_more_is_left_to_whoever_has_it(moving: Broker, act: Any) -> None:
    moving.publish("cpu.analysis", 1)
    request = moving.hold("cpu.analysis")
    moving.channel.qos.restore_by_tag(request.message.delivery_tag)
    assert not act(request)
    assert len(moving.on_list(LIST)) == 1
    assert moving.on_list(f"cpu.thumbnail{STEP}5") == []
    assert_done(request)


@pytest.mark.parametrize("act", [give_back, lambda request: move(request, "cpu.thumbnail", 5)])
def test_while_redis_is_away_nothing_is_settled(moving: Broker, act: Any) -> None:
    moving.publish("cpu.analysis", 1)
    request = moving.hold("cpu.analysis")
    book = moving.channel.leases
    here, book.client = book.client, redis.Redis(port=1)
    with pytest.raises(redis.ConnectionError):
        act(request)
    assert not request.acknowledged
    book.client = here
    assert act(request)
    assert moving.held() == (0, 0)


def test_it_is_the_default_and_can_be_switched_off(redis_url: str) -> None:
    app = Celery("default", broker=redis_url, set_as_current=False)
    assert celeray.install(app).transport == Settings().transport == "leased"
    with app.connection_for_read() as connection:
        assert isinstance(connection.default_channel, Channel)
    stock = Broker(redis_url)
    assert not isinstance(stock.channel, Channel)
    stock.close()
