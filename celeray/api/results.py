"""What Celery's result backend knows of a task: how it stands, never what it returned.

Exceptions are not rebuilt: Celery would import the class that the stored result names.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.backends.base import decompress_payload  # type: ignore[attr-defined,unused-ignore]
from kombu.exceptions import KombuError
from kombu.serialization import loads
from pydantic import BaseModel, ConfigDict

from celeray.scheduler.status import TaskState

CONTENT_TYPES = ("application/json", "application/x-msgpack")
STATES = {
    "STARTED": TaskState.RUNNING,
    "SUCCESS": TaskState.SUCCEEDED,
    "FAILURE": TaskState.FAILED,
    "RETRY": TaskState.RETRIED,
    "REVOKED": TaskState.REVOKED,
    "REJECTED": TaskState.REJECTED,
}
logger = logging.getLogger(__name__)


class ResultMeta(BaseModel):
    """A stored result without the result."""

    model_config = ConfigDict(frozen=True)

    status: str
    """Celery's state, custom ones included."""
    date_done: str | None = None
    """ISO 8601, as Celery stored it."""
    exception: str | None = None
    """Class name of the exception, where there is one."""
    name: str | None = None
    worker: str | None = None
    queue: str | None = None
    retries: int | None = None
    """These four need `result_extended` in the app."""

    @property
    def state(self) -> TaskState:
        """As celeray calls it. A state of the task's own making counts as running."""
        return STATES.get(self.status, TaskState.RUNNING)


class ResultReader:
    """Reads from the result backend of a Celery app.

    Args:
        app: the user's app, or a bare one that only knows the backend's URL.
    """

    def __init__(self, app: Celery) -> None:
        self._backend: Any = app.backend

    @classmethod
    def from_url(cls, result_backend: str) -> ResultReader:
        """For an API that was given URLs only, and so imports no code of the user's."""
        return cls(Celery("celeray-api", backend=result_backend, set_as_current=False))

    def read(self, task_id: str) -> ResultMeta | None:
        """What is stored for the id. None: nothing, or the backend is none that stores by key."""
        key_for_task = getattr(self._backend, "get_key_for_task", None)
        stored = self._backend.get(key_for_task(task_id)) if key_for_task else None
        meta = _decode(stored) if stored else None
        return _meta(meta) if meta else None


def _decode(stored: bytes | str) -> dict[str, Any] | None:
    payload = decompress_payload(stored)
    for content_type in CONTENT_TYPES:
        encoding = "utf-8" if content_type == CONTENT_TYPES[0] else "binary"
        try:
            meta = loads(payload, content_type, encoding, accept=CONTENT_TYPES)
        except (KombuError, ValueError):
            continue
        if isinstance(meta, dict):
            return meta
    logger.warning("a stored result is neither JSON nor msgpack; its state is not shown")
    return None


def _meta(meta: dict[str, Any]) -> ResultMeta:
    result = meta.get("result")
    ended_badly = meta.get("status") in ("FAILURE", "RETRY", "REVOKED")
    exception = result.get("exc_type") if ended_badly and isinstance(result, dict) else None
    done = meta.get("date_done")
    return ResultMeta(
        status=str(meta.get("status")),
        date_done=str(done) if done else None,
        exception=exception,
        name=meta.get("name"),
        worker=meta.get("worker"),
        queue=meta.get("queue"),
        retries=meta.get("retries"),
    )
