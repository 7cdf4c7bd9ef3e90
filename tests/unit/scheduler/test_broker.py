"""Which Redis an app's URLs mean, seen on the client's connection settings; nothing connects."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from celery import Celery
from redis.sentinel import SentinelConnectionPool

from celeray.scheduler.broker import broker_keys, broker_redis, keeps_letters, masked, redis_from_url
from celeray.scheduler.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_urls_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


def app(**conf: Any) -> Celery:
    made = Celery("broker-test", set_as_current=False)
    made.conf.update(conf)
    return made


def connection(client: redis.Redis) -> dict[str, Any]:
    return client.connection_pool.connection_kwargs


def test_the_brokers_database_is_used() -> None:
    found = connection(broker_redis(app(broker_url="redis://:pw@10.0.0.1:6399/3")))
    assert (found["host"], found["port"], found["db"], found["password"]) == ("10.0.0.1", 6399, 3, "pw")
    assert found["socket_timeout"] == 5.0


def test_of_several_urls_the_first_one() -> None:
    assert connection(broker_redis(app(broker_url="redis://a:1/0;redis://b:2/0")))["host"] == "a"
    assert connection(broker_redis(app(broker_url=["redis://c:1/0", "redis://d:2/0"])))["host"] == "c"
    assert connection(broker_redis(app(broker_url="amqp://", broker_read_url="redis://r:1/0")))["host"] == "r"


def test_tls_as_celery_spells_it() -> None:
    by_query = broker_redis(app(broker_url="rediss://h:1/0?ssl_cert_reqs=CERT_NONE"))
    assert connection(by_query)["ssl_cert_reqs"] == "none"
    by_conf = broker_redis(
        app(
            broker_url="redis://h:1/0",
            broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "ca"},
        )
    )
    assert by_conf.connection_pool.connection_class is redis.SSLConnection
    assert (connection(by_conf)["ssl_cert_reqs"], connection(by_conf)["ssl_ca_certs"]) == ("required", "ca")


def test_a_unix_socket() -> None:
    found = connection(broker_redis(app(broker_url="redis+socket:///run/redis.sock?virtual_host=2")))
    assert (found["path"], found["db"]) == ("/run/redis.sock", 2)


def test_sentinels() -> None:
    options = {"master_name": "film", "sentinel_kwargs": {"password": "s"}}
    client = broker_redis(
        app(broker_url="sentinel://a:26379;sentinel://:pw@b:26380/4", broker_transport_options=options)
    )
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("film", 4)
    with pytest.raises(ConfigurationError, match="master_name"):
        broker_redis(app(broker_url="sentinel://a:26379"))


def test_with_amqp_the_result_backend_is_used() -> None:
    found = broker_redis(app(broker_url="amqp://guest:secret@mq//", result_backend="redis://h:7/1"))
    assert connection(found)["port"] == 7


def test_without_any_redis_the_error_names_both_and_no_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        broker_redis(app(broker_url="amqp://guest:secret@mq//", result_backend="rpc://"))
    assert "amqp://guest:**@mq//" in str(caught.value)
    assert "rpc://" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_option_that_redis_does_not_know() -> None:
    with pytest.raises(ConfigurationError, match="h:1"):
        redis_from_url("redis://h:1/0?socket_timeout=soon")


def test_a_url_of_another_kind() -> None:
    with pytest.raises(ConfigurationError, match="expected redis://"):
        redis_from_url("amqp://u:p@h")
    assert connection(redis_from_url("redis://h:5/0"))["port"] == 5


def test_keys_as_the_broker_spells_them() -> None:
    options = {"global_keyprefix": "film:", "sep": ":", "unacked_key": "held"}
    keys = broker_keys(app(broker_transport_options=options))
    assert keys.queue_lists("q")[:2] == ["film:q", "film:q:1"]
    assert keys.unacked() == "film:held"
    assert broker_keys(app()).queue_lists("q")[9] == "q\x06\x169"


def test_masked() -> None:
    assert masked("redis://user:pw@h:1/0") == "redis://user:**@h:1/0"
    assert masked("redis://:pw@h:1/0") == "redis://:**@h:1/0"
    assert masked("redis://h:1/0") == "redis://h:1/0"


def test_keys_are_spelled_as_their_redis_has_it() -> None:
    options = {"global_keyprefix": "film:"}
    on_amqp = app(
        broker_url="amqp://mq//", result_backend="redis://h:7/1", result_backend_transport_options=options
    )
    assert broker_keys(on_amqp).parked() == "film:celeray:parked"
    assert keeps_letters(on_amqp.conf)
    assert not keeps_letters(app(broker_url="amqp://mq//", result_backend="rpc://").conf)
