"""Queues and exchanges as either kind of broker knows them."""

from __future__ import annotations

import pytest
from celery import Celery
from kombu import Connection

import celeray
from celeray.scheduler.settings import Settings
from celeray.scheduler.topology import BrokerKind, contract_queues, kind_of_connection

SETTINGS = Settings()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://x/0", BrokerKind.REDIS),
        ("rediss://x/0", BrokerKind.REDIS),
        ("sentinel://x:1;sentinel://y:1", BrokerKind.REDIS),
        ("memory://", BrokerKind.EMULATED),
        ("filesystem://", BrokerKind.EMULATED),
        ("amqp://x//", BrokerKind.AMQP),
        ("pyamqp://x//", BrokerKind.AMQP),
        (None, BrokerKind.AMQP),
    ],
)
def test_the_kind_comes_from_the_url(url: str | None, kind: BrokerKind) -> None:
    assert kind_of_connection(Connection(url)) is kind


@pytest.mark.parametrize("kind", [BrokerKind.REDIS, BrokerKind.EMULATED])
def test_no_exchange_is_named_on_emulated_brokers(kind: BrokerKind) -> None:
    queues = contract_queues(SETTINGS, kind)
    assert [queue.name for queue in queues] == list(SETTINGS.queues)
    assert {queue.exchange.name for queue in queues} == {""}
    assert all(queue.routing_key == queue.name for queue in queues)


def test_three_exchanges_and_ten_priorities_on_amqp() -> None:
    exchanges = {}
    for queue in contract_queues(SETTINGS, BrokerKind.AMQP):
        exchanges[queue.name] = queue.exchange.name
        assert queue.max_priority == 10
        assert queue.durable
        assert queue.exchange.type == "direct"
        assert queue.routing_key == queue.name
    assert exchanges.pop("priority") == "auteur.priority"
    assert exchanges.pop("dlq") == "auteur.dlq"
    assert set(exchanges.values()) == {"auteur"}


def test_queues_that_celery_makes_by_itself_have_no_exchange_on_redis() -> None:
    app = Celery("film", broker="redis://127.0.0.1:1/0", set_as_current=False)
    celeray.install(app)
    assert app.amqp.queues["made.on.demand"].exchange.name == ""
    assert app.amqp.default_exchange.name == ""


def test_on_amqp_they_have_celerys_own() -> None:
    app = Celery("film", broker="amqp://127.0.0.1:1//", set_as_current=False)
    celeray.install(app)
    assert app.amqp.queues["made.on.demand"].exchange.name == "made.on.demand"
    assert app.amqp.default_exchange.name == "cpu.analysis"
