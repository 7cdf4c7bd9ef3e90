"""Large results are stored gzipped, small ones as they are, and any Celery reads both."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

import celeray
from celeray.scheduler.results import RedisBackend, SentinelBackend
from celeray.scheduler.settings import Settings

REDIS = "redis://127.0.0.1:1/0"
LARGE = {"text": "celeray " * 10_000}
SMALL = {"text": "celeray"}


def backend(url: str = REDIS, limit: int = 1000, **conf: Any) -> Any:
    app = Celery("results", broker=REDIS, backend=url, set_as_current=False, changes=conf)
    celeray.install(app, Settings(compress_results_above_bytes=limit))
    return app.backend


def stock() -> Any:
    return Celery("stock", broker=REDIS, backend=REDIS, set_as_current=False).backend


def is_compressed(stored: bytes | str) -> bool:
    return isinstance(stored, bytes) and stored.startswith(b"\x00celery-compressed\x00")


def test_only_large_ones_are_compressed() -> None:
    ours = backend()
    assert isinstance(ours, RedisBackend)
    assert not is_compressed(ours.encode(SMALL))
    assert is_compressed(ours.encode(LARGE))
    assert len(ours.encode(LARGE)) < 2000


@pytest.mark.parametrize("value", [SMALL, LARGE])
def test_both_read_what_either_wrote(value: Any) -> None:
    ours, theirs = backend(), stock()
    assert theirs.decode(ours.encode(value)) == value
    assert ours.decode(theirs.encode(value)) == value


def test_0_is_never() -> None:
    assert not is_compressed(backend(limit=0).encode(LARGE))


def test_the_users_own_compression_counts() -> None:
    assert is_compressed(backend(result_compression="bzip2").encode(SMALL))


def test_where_redis_gives_text_nothing_is_compressed() -> None:
    assert not is_compressed(backend(f"{REDIS}?decode_responses=true").encode(LARGE))


def test_sentinels_too() -> None:
    made = backend("sentinel://127.0.0.1:1/0", result_backend_transport_options={"master_name": "m"})
    assert isinstance(made, SentinelBackend)
    assert is_compressed(made.encode(LARGE))


def test_other_backends_are_celerys() -> None:
    assert not isinstance(backend("cache+memory://"), RedisBackend)


def test_one_made_before_is_replaced() -> None:
    app = Celery("results", broker=REDIS, backend=REDIS, set_as_current=False)
    before = app.backend
    celeray.install(app)
    assert app.backend is not before
    assert isinstance(app.backend, RedisBackend)


def test_one_of_an_app_without_celeray_compresses_nothing() -> None:
    app = Celery("other", broker=REDIS, set_as_current=False)
    assert not is_compressed(RedisBackend(app=app, url=REDIS).encode(LARGE))
