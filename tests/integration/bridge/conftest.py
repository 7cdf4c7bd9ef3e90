"""One bridge for the tests that leave it as it was; others start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celeray.scheduler.embedded_redis import EmbeddedRedis

from .live import LiveBridge, application


@pytest.fixture
def broker(redis_server: EmbeddedRedis) -> Iterator[str]:
    """An empty database that the shared bridge does not use."""
    url = f"redis://127.0.0.1:{redis_server.port}/5"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url


@pytest.fixture(scope="session")
def shared_bridge(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveBridge]:
    """A bridge on two simulated devices of 24 GiB."""
    url = f"redis://127.0.0.1:{redis_server.port}/4"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    bridge = LiveBridge(url, tmp_path_factory.mktemp("bridge")).start()
    yield bridge
    bridge.stop()


@pytest.fixture
def app(shared_bridge: LiveBridge) -> Celery:
    """The producer's side of the shared bridge."""
    return application(shared_bridge.url)
