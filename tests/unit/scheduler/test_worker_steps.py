"""Which queues a worker consumes when nobody chose."""

from __future__ import annotations

import logging
import types
from typing import Any

import pytest
from celery import Celery

import celeray
from celeray.scheduler.settings import Settings
from celeray.scheduler.worker_steps import SelectQueues

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
