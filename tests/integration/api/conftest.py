"""The API over a real Redis, asked as a client on this machine would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.api.results import ResultReader
from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, mint
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

MakeToken = Callable[..., dict[str, str]]


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_client: redis.Redis) -> StatusStore:
    return StatusStore(redis_client)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(transport="leased", api_tokens_file=tmp_path / "tokens.json")


@pytest.fixture
def make_token(settings: Settings) -> MakeToken:
    """Makes a token of a role, and returns what its owner sends as headers."""

    def make(role: Role, *, valid_s: float = 3600.0) -> dict[str, str]:
        token, text = mint(role, now=time.time(), valid_s=valid_s)
        TokenFile(settings.tokens_file).add(token)
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def api(store: StatusStore, settings: Settings, redis_url: str) -> Iterator[TestClient]:
    app = create_app(settings, store, ResultReader.from_url(redis_url))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client
