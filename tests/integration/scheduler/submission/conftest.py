"""The app of `front` in this process, and a look at dedup keys and queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

import celeray
from celeray.scheduler.settings import Settings

SEPARATOR = "\x06\x16"
DEFAULT = "cpu.analysis"
WAITING = f"{DEFAULT}{SEPARATOR}5"
"""The list of the default queue at the default priority."""


class Look:
    """What is in Redis."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)

    def messages(self, key: str = WAITING) -> list[dict[str, Any]]:
        """The next one first."""
        return [json.loads(item) for item in reversed(self.client.lrange(key, 0, -1))]

    def ids(self, key: str = WAITING) -> list[str]:
        return [message["headers"]["id"] for message in self.messages(key)]

    def held_keys(self) -> list[str]:
        return [key.decode() for key in self.client.keys("*celeray:dedup:*")]

    def ran(self, name: str) -> int:
        return int(self.client.get(f"ran:{name}") or 0)


@pytest.fixture
def look(redis_url: str) -> Iterator[Look]:
    made = Look(redis_url)
    yield made
    made.client.close()


@pytest.fixture(params=["kombu", "leased"])
def transport(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def make_app(redis_url: str, transport: str) -> Iterator[Callable[..., Celery]]:
    """An installed app with the tasks `film.cut` and, deduplicated, `film.render`."""
    made: list[Celery] = []

    def make(url: str = redis_url, conf: dict[str, Any] | None = None, **settings: Any) -> Celery:
        app = Celery("film", broker=url, backend=url, set_as_current=False)
        app.conf.update(conf or {})
        celeray.install(app, Settings(transport=transport, **settings))

        @app.task(shared=False, name="film.render")
        def render(*args: Any, **kwargs: Any) -> None: ...

        @app.task(shared=False, name="film.cut", deduplicate=True)
        def cut(*args: Any, **kwargs: Any) -> None: ...

        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    return make_app()
