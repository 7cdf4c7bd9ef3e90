"""Which transport a connection gets. Nothing connects here."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import redis as kombu_redis
from kombu.transport.memory import Transport as MemoryTransport

import celeray
from celeray.scheduler.settings import Settings
from celeray.scheduler.topology import BrokerKind, kind_of_connection
from celeray.scheduler.transport import SentinelTransport, SSLTransport, Transport
from celeray.scheduler.transport.selection import leased_connection_class

Leased = leased_connection_class(Connection)
URLS = {
    "redis://localhost": Transport,
    "rediss://localhost": Transport,
    "sentinel://localhost": SentinelTransport,
    "memory://": MemoryTransport,
}


@pytest.mark.parametrize(("url", "transport"), URLS.items())
def test_the_url_decides_as_ever(url: str, transport: Any) -> None:
    assert Leased(url).get_transport_cls() is transport
    assert Leased(url).clone().get_transport_cls() is transport
    assert Leased(url).as_uri() == Connection(url).as_uri()


def test_tls_comes_with_its_scheme() -> None:
    assert Leased("rediss://localhost").ssl == {"ssl_cert_reqs": ssl.CERT_NONE}
    by_name = Connection("rediss://localhost", transport="celeray.scheduler.transport:SSLTransport")
    assert isinstance(by_name.transport, SSLTransport)
    assert by_name.ssl == {"ssl_cert_reqs": ssl.CERT_NONE}


def test_an_alternate_url_keeps_the_transport() -> None:
    connection = Leased("redis://one;redis://two")
    connection.maybe_switch_next()
    assert connection.hostname == "two"
    assert connection.get_transport_cls() is Transport


def test_celery_and_celeray_take_it_for_redis() -> None:
    connection = Leased("redis://localhost")
    assert kind_of_connection(connection) is BrokerKind.REDIS
    assert (Transport.driver_type, Transport.driver_name) == ("redis", "redis")


@pytest.mark.parametrize(("transport", "found"), [("kombu", kombu_redis.Transport), ("leased", Transport)])
def test_an_installed_app_uses_what_its_settings_say(transport: Any, found: Any) -> None:
    app = Celery(broker="redis://localhost", set_as_current=False)
    celeray.install(app, Settings(transport=transport))
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.get_transport_cls() is found
        assert connection.transport_options["priority_steps"] == list(range(10))


def test_the_conf_key_counts_too() -> None:
    app = Celery(broker="redis://localhost", set_as_current=False)
    app.conf.celeray_transport = "leased"
    celeray.install(app)
    assert app.connection_for_read().get_transport_cls() is Transport


def test_a_pool_makes_connections_of_the_same_transport() -> None:
    app = Celery(broker="redis://localhost", set_as_current=False)
    celeray.install(app, Settings(transport="leased"))
    assert app.amqp.producer_pool.connections.new().get_transport_cls() is Transport


def test_a_leased_and_a_stock_app_share_no_pool() -> None:
    stock, leased = Connection("redis://localhost"), Leased("redis://localhost")
    assert leased.__eqhash__() != stock.__eqhash__()
    assert leased.__eqhash__() == Leased("redis://localhost").__eqhash__()
