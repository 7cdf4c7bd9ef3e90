"""Celery subscribes to a task's result when it is called. Those of a batch are subscribed to when somebody waits."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.submission.collecting import BatchProducer


class SubscribeLateMixin:
    """Goes before a Celery Redis backend."""

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        """As Celery's, for a single task."""
        backend: Any = super()
        return None if isinstance(producer, BatchProducer) else backend.on_task_call(producer, task_id)
