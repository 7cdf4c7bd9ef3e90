"""A task as the bridges and the result backend know it together, for `GET /v1/tasks/{id}` and `celeray describe`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from celeray.api.results import ResultMeta
from celeray.scheduler.status import UNFINISHED, TaskRecord, TaskState


class TaskDetail(BaseModel):
    """A task as the bridges and the result backend know it together."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    state: TaskState
    run: TaskRecord | None
    """Its last run in a bridge. None: it ran on a Celery worker, or too long ago."""
    result: ResultMeta | None
    """None: the app stores no result, or it expired."""


def combined(task_id: str, run: TaskRecord | None, result: ResultMeta | None) -> TaskDetail | None:
    """Both views of a task as one. None: neither knows it.

    The run says more than the result, unless it never ended while the result did: then it ended elsewhere.
    """
    if run is None and result is None:
        return None
    if run is not None and (result is None or run.state not in UNFINISHED or result.state in UNFINISHED):
        state = run.state
    else:
        assert result is not None
        state = result.state
    return TaskDetail(task_id=task_id, state=state, run=run, result=result)
