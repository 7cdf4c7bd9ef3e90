"""Whose result is kept how long, as the backend sees it while it stores."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

import celeray
from celeray.scheduler.result_ttl import ResultTtlMixin

REDIS = "redis://127.0.0.1:1/0"


class Recording:
    """Below the mixin: notes what it would set."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.expires: Any = 3600
        self.failure_expires: Any = 7200
        self.stored: list[tuple[Any, Any]] = []

    def _store_result(self, *_: Any, **__: Any) -> None:
        self.stored.append((self.expires, self.failure_expires))


class Backend(ResultTtlMixin, Recording):
    pass


@pytest.fixture
def backend() -> Backend:
    app = Celery("film", broker=REDIS, set_as_current=False)
    celeray.install(app)

    @app.task(shared=False, name="film.short", result_ttl_s=50)
    def short() -> None: ...

    app.finalize()
    return Backend(app)


def stored(backend: Backend, task: str = "film.other", **fields: Any) -> tuple[Any, Any]:
    request = Context(id="1", task=task, **fields)
    backend._store_result("1", None, "SUCCESS", None, request=request)
    return backend.stored.pop()


def test_the_call_over_the_task_over_the_setting(backend: Backend) -> None:
    assert stored(backend) == (3600, 7200)
    assert stored(backend, "film.short") == (50, 50)
    assert stored(backend, "film.short", headers={"result_ttl_s": 9}) == (9, 9)
    assert stored(backend, headers={"result_ttl_s": 9}) == (9, 9)
    assert (backend.expires, backend.failure_expires) == (3600, 7200)


def test_what_is_stored_for_another_id_is_none_of_it(backend: Backend) -> None:
    backend._store_result("2", None, "FAILURE", request=Context(id="1", task="film.short"))
    backend._store_result("2", None, "FAILURE")
    assert backend.stored == [(3600, 7200)] * 2


def test_a_value_that_can_not_be_understood_is_logged(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    assert stored(backend, headers={"result_ttl_s": "soon"}) == (3600, 7200)
    assert "result_ttl_s='soon'" in caplog.text
