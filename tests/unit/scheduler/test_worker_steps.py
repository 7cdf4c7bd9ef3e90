"""What a worker of an installed app does at its start: which queues it consumes when nobody chose, what it refuses."""

from __future__ import annotations

import logging
import types
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

import celeray
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings
from celeray.scheduler.worker_steps import CheckPromises, SelectQueues

ALL = set(Settings().queues)


def consumed(chosen: str | None = None, excluded: str | None = None, *, on_ray: bool = False) -> set[str]:
    app = Celery("steps", broker="redis://127.0.0.1:1/0", set_as_current=False)
    celeray.install(app)
    app.amqp.queues.select(chosen)
    app.amqp.queues.deselect(excluded)
    pool = type("Pool", (), {"runs_on_ray": True} if on_ray else {})
    worker: Any = types.SimpleNamespace(app=app, pool_cls=pool)
    SelectQueues(worker).create(worker)
    return set(app.amqp.queues.consume_from)


def test_a_plain_one_leaves_out_the_gpu_queues_and_dead_letters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert consumed() == {"cpu.analysis", "cpu.thumbnail", "io.storage", "priority"}
    assert "not consuming from dlq, gpu.generation, gpu.processing" in caplog.text


def test_the_bridge_leaves_out_dead_letters() -> None:
    assert consumed(on_ray=True) == ALL - {"dlq"}


def test_what_was_chosen_is_consumed() -> None:
    assert consumed("gpu.generation") == {"gpu.generation"}
    assert consumed("dlq") == {"dlq"}


def test_what_was_excluded_stays_so() -> None:
    assert consumed(excluded="priority") == {"cpu.analysis", "cpu.thumbnail", "io.storage"}


def start(app: Celery) -> None:
    worker: Any = SimpleNamespace(app=app)
    CheckPromises(worker).create(worker)


class TestLettersWithoutRedis:
    def app(self, broker: str, backend: str | None, **settings: Any) -> Celery:
        app = Celery("letters", broker=broker, backend=backend, set_as_current=False)
        celeray.install(app, Settings(**settings))
        return app

    def test_on_amqp_a_worker_does_not_start(self) -> None:
        app = self.app("amqp://u:secret@127.0.0.1:1//", "rpc://")
        with pytest.raises(
            ConfigurationError, match=r"failed_task_letters=True.*result_backend='rpc://'"
        ) as caught:
            start(app)
        assert "secret" not in str(caught.value)

    def test_on_amqp_policies_are_refused_by_install(self) -> None:
        app = self.app("amqp://127.0.0.1:1//", "rpc://", retry_policies={"film.*": "default"})
        with pytest.raises(
            ConfigurationError, match=r"retry_policies=\{'film.\*': 'default'\}.*result_backend='rpc://'"
        ):
            app.conf.get("broker_url")

    @pytest.mark.parametrize(
        ("broker", "backend", "letters"),
        [
            ("amqp://127.0.0.1:1//", "redis://127.0.0.1:1/0", True),
            ("amqp://127.0.0.1:1//", "rpc://", False),
            ("memory://", None, True),
            ("redis://127.0.0.1:1/0", None, True),
        ],
    )
    def test_all_else_starts(self, broker: str, backend: str | None, letters: bool) -> None:
        app = self.app(broker, backend, failed_task_letters=letters)
        start(app)
