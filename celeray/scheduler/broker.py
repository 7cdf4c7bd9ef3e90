"""The Redis where celeray's own keys live: the broker's, or the result backend's. Opens connections, keeps none."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.sentinel import Sentinel

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.keys import PRIORITY_SEPARATOR, Keys

SOCKET_TIMEOUT_S = 5.0
CERT_REQS = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}


REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "socket", "sentinel"})


def broker_redis(app: Any) -> redis.Redis:
    """A client of the broker's Redis; where the broker is none, of the result backend's.

    Args:
        app: the Celery app. Its `broker_url` (`redis`, `rediss`, `redis+socket`, `sentinel`), `broker_use_ssl` and
            `broker_transport_options` count. Of several URLs the first one is used.

    Raises:
        ConfigurationError: neither is a Redis, or the URL has an option that Redis does not know.
    """
    conf = app.conf
    broker = _urls(conf.broker_read_url or conf.broker_url)
    if client := _open(broker, conf.broker_transport_options, conf.broker_use_ssl):
        return client
    backend = _urls(conf.result_backend)
    if client := _open(backend, conf.result_backend_transport_options, conf.redis_backend_use_ssl):
        return client
    raise ConfigurationError(
        f"celeray keeps its state in Redis, but neither broker_url={masked(_first(broker))!r} nor "
        f"result_backend={masked(_first(backend))!r} is one: give the app a redis:// result backend"
    )


def redis_from_url(url: str) -> redis.Redis:
    """A client of the Redis that a URL names.

    Raises:
        ConfigurationError: the URL is of another kind, or not understood.
    """
    if client := _open(_urls(url), {}, None):
        return client
    raise ConfigurationError(f"redis_url={masked(url)!r}: expected redis://, rediss:// or redis+socket://")


def keeps_letters(conf: Any) -> bool:
    """Whether there is a Redis for celeray's own keys, and so for letters: the broker, else the result backend."""
    return _is_redis(_urls(conf.broker_read_url or conf.broker_url)) or _is_redis(_urls(conf.result_backend))


def broker_keys(app: Any) -> Keys:
    """How keys are spelled in `broker_redis`: as the options of the broker say, or of the result backend."""
    conf = app.conf
    on_broker = _is_redis(_urls(conf.broker_read_url or conf.broker_url)) or not _is_redis(
        _urls(conf.result_backend)
    )
    options = (conf.broker_transport_options if on_broker else conf.result_backend_transport_options) or {}
    return Keys(
        prefix=options.get("global_keyprefix", ""),
        separator=options.get("sep", PRIORITY_SEPARATOR),
        unacked_key=options.get("unacked_key", "unacked"),
        unacked_index_key=options.get("unacked_index_key", "unacked_index"),
    )


def masked(url: str) -> str:
    """The URL without its password, for messages."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:**@", url)


def _urls(value: Any) -> list[str]:
    parts = value if isinstance(value, list | tuple) else str(value or "").split(";")
    return [str(part) for part in parts if part]


def _is_redis(urls: list[str]) -> bool:
    return urlsplit(_first(urls)).scheme in REDIS_SCHEMES


def _first(urls: list[str]) -> str:
    return urls[0] if urls else ""


def _open(urls: list[str], options: Mapping[str, Any] | None, use_ssl: Any) -> redis.Redis | None:
    """None where the first URL is no Redis."""
    url = _first(urls)
    scheme = urlsplit(url).scheme
    if scheme == "sentinel":
        return _from_sentinels(urls, options or {}, use_ssl)
    if scheme in ("redis+socket", "socket"):
        parts = urlsplit(url)
        database = dict(parse_qsl(parts.query)).get("virtual_host", "0")
        return redis.Redis(unix_socket_path=parts.path, db=int(database), password=parts.password)
    if scheme not in ("redis", "rediss"):
        return None
    given = _ssl_options(use_ssl)
    try:
        return redis.Redis.from_url(
            _normal(url, secure=bool(use_ssl)),
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            **given,
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Redis at {masked(url)!r}: {error}") from error


def _normal(url: str, *, secure: bool) -> str:
    """The URL as redis-py reads it: Celery also takes `CERT_NONE` for `none`, and TLS for `redis://`."""
    parts = urlsplit(url)
    query = urlencode(
        [
            (key, value.removeprefix("CERT_").lower() if key == "ssl_cert_reqs" else value)
            for key, value in parse_qsl(parts.query)
        ]
    )
    return urlunsplit(parts._replace(scheme="rediss" if secure else parts.scheme, query=query))


def _ssl_options(use_ssl: Any) -> dict[str, Any]:
    options = dict(use_ssl) if isinstance(use_ssl, Mapping) else {}
    if options.get("ssl_cert_reqs") in CERT_REQS:
        options["ssl_cert_reqs"] = CERT_REQS[options["ssl_cert_reqs"]]
    return options


def _from_sentinels(urls: list[str], options: Mapping[str, Any], use_ssl: Any) -> redis.Redis:
    master = options.get("master_name")
    if not master:
        raise ConfigurationError(
            "broker_transport_options.master_name=None: a sentinel:// broker needs the name of its master"
        )
    parts = [urlsplit(url) for url in urls]
    addresses = [(part.hostname or "127.0.0.1", part.port or 26379) for part in parts]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs=options.get("sentinel_kwargs"), socket_timeout=SOCKET_TIMEOUT_S
    )
    secure = {"ssl": True, **_ssl_options(use_ssl)} if use_ssl else {}
    last = parts[-1]
    return sentinel.master_for(  # type: ignore[no-untyped-call]
        master,
        db=int(last.path.strip("/") or 0),
        username=last.username or None,
        password=last.password,
        **secure,
    )
