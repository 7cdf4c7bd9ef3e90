"""Limits that can't be kept end the worker's start, and calls that they can't be kept for are refused at publish."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

import celeray
from celeray.scheduler.errors import ConfigurationError, LimitError
from celeray.scheduler.limits.gates import LimitRules
from celeray.scheduler.limits.step import check_limits
from celeray.scheduler.settings import Settings

REDIS, AMQP = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"


def make_app(broker: str = REDIS, transport: Any = "leased", task: Any = None, **limits: Any) -> Celery:
    app = Celery("film", broker=broker, set_as_current=False)
    celeray.install(app, Settings(transport=transport, limits=limits))

    @app.task(shared=False, name="film.render", **(task or {}))
    def render(scene: str, user: Any = None) -> None: ...

    return app


def checked(app: Celery) -> list[str]:
    settings = celeray.scheduler.installed.settings_of(app)
    return check_limits(app, settings, LimitRules(settings.limits))


def test_an_app_without_limits_is_never_refused() -> None:
    for broker in (REDIS, AMQP):
        assert checked(make_app(broker, transport="kombu")) == []


@pytest.mark.parametrize(
    ("broker", "transport", "why"), [(REDIS, "kombu", "transport='kombu'"), (AMQP, "leased", "broker amqp")]
)
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"task": {"limits": {"rate": "1/s"}}}, "of task film.render"),
        ({"other.*": {"rate": "1/s"}}, r"setting limits=\['other\.\*'\]"),
    ],
)
def test_where_limits_cannot_be_kept_no_worker_starts(
    broker: str, transport: str, why: str, options: Any, what: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{what}.*{why}"):
        checked(make_app(broker, transport, **options))


def test_a_wrong_option_names_its_task() -> None:
    with pytest.raises(ConfigurationError, match=r"task film\.render: limits: rate='often'"):
        checked(make_app(task={"limits": {"rate": "often"}}))


def test_concurrency_needs_late_acks_and_a_rate_does_not() -> None:
    early = {"acks_late": False}
    with pytest.raises(ConfigurationError, match=r"task film\.render: acks_late=False"):
        checked(make_app(task={**early, "limits": {"concurrency": 1}}))
    assert checked(make_app(task={**early, "limits": {"rate": "1/s"}})) == ["film.render"]
    assert checked(make_app(task={"limits": {"concurrency": 1}})) == ["film.render"]


@pytest.mark.parametrize("call", [{}, {"kwargs": {"user": ""}}, {"kwargs": {"user": [1]}}, {"args": ("x",)}])
def test_a_call_without_the_keys_value_is_refused_at_publish(call: Any) -> None:
    app = make_app(task={"limits": {"concurrency": 1, "key": "kwargs.user"}, "typing": False})
    with pytest.raises(LimitError, match=r"limits: kwargs\.user=.*expected a text"):
        app.tasks["film.render"].apply_async(**call, retry=False)


def test_a_wrong_option_is_refused_at_publish() -> None:
    app = make_app(task={"limits": {"concurrency": 0}})
    with pytest.raises(LimitError, match="concurrency=0"):
        app.tasks["film.render"].apply_async(("x",), retry=False)


def test_the_setting_holds_for_names_that_the_producer_does_not_know() -> None:
    app = make_app(**{"else.*": {"rate": "1/s", "key": "headers.limit_key"}})
    with pytest.raises(LimitError, match=r"headers\.limit_key=None"):
        app.send_task("else.where", retry=False)
