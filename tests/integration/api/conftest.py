"""The API over a real Redis, asked as a client on this machine would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.api.results import ResultReader
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_client: redis.Redis) -> StatusStore:
    return StatusStore(redis_client)


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def api(store: StatusStore, settings: Settings, redis_url: str) -> Iterator[TestClient]:
    app = create_app(settings, store, ResultReader.from_url(redis_url))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client
