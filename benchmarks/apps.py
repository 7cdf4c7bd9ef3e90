"""The app that both sides load and that publishes to them: no celeray in it, and the same settings for both.

Its addresses are Celery's own variables, CELERY_BROKER_URL and CELERY_RESULT_BACKEND, which `__main__` sets.
"""

from __future__ import annotations

import os
import time

from celery import Celery

PLAIN_VARIABLE = "CELERAY_BENCH_PLAIN"
"""1: events and the STARTED state are off on both sides."""

# One executor for all tasks here, on the whole device: what is measured is a warm bridge.
REQUEST = {"gpu": True, "executor": "bench"}

WATCHED = os.environ.get(PLAIN_VARIABLE) != "1"

app = Celery("benchmarks")
app.conf.update(
    task_acks_late=True,
    task_track_started=WATCHED,
    task_send_sent_event=False,
    worker_send_task_events=WATCHED,
    task_serializer="json",
    broker_connection_retry_on_startup=True,
)


@app.task(name="benchmarks.ignored", ignore_result=True, resource_requirements=REQUEST)
def ignored() -> None:
    """Nothing, and nobody asks."""


@app.task(name="benchmarks.stored", ignore_result=False, resource_requirements=REQUEST)
def stored() -> int:
    """Nothing but a result."""
    return 1


@app.task(name="benchmarks.moment", ignore_result=False, resource_requirements=REQUEST)
def moment() -> float:
    """When it started: CLOCK_MONOTONIC in seconds, one clock for all processes of a host."""
    return time.monotonic()
