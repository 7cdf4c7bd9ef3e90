"""A Celery app whose tasks this process runs through Celery's trace function, as an executor does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, current_app
from celery.app import trace
from celery.backends.cache import _DUMMY_CLIENT_CACHE

HOSTNAME = "executor@test"


@contextmanager
def traced_app() -> Iterator[Celery]:
    """An app whose worker optimisations are set up, and taken back at the end."""
    before = current_app._get_current_object()
    app = Celery("traced", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.accept_content = ["json"]
    app.conf.worker_hijack_root_logger = False
    try:
        yield app
    finally:
        # Results in memory outlive the app otherwise.
        _DUMMY_CLIENT_CACHE.clear()
        trace.reset_worker_optimizations(app)
        trace._localized[:] = []
        before.set_current()
        before.set_default()


def prepare(app: Celery) -> None:
    """Set up what `fast_trace_task` needs, once the tasks are declared."""
    trace.setup_worker_optimizations(app, HOSTNAME)
    for name, task in app.tasks.items():
        task.__trace__ = trace.build_tracer(name, task, app.loader, HOSTNAME, app=app)


def arguments(name: str, *args: Any, task_id: str = "t1", **request: Any) -> tuple[Any, ...]:
    """What the bridge sends of a message: the arguments of `fast_trace_task`."""
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    full = {"id": task_id, "task": name, "delivery_info": {}} | request
    return (name, task_id, full, body.encode(), "application/json", "utf-8")
