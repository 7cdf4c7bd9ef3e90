"""`/v1/tasks` and `/v1/tasks/{id}`: what ran where, and how it ended. Arguments and results are never shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from celeray.api.problems import Problem
from celeray.api.results import ResultMeta, ResultReader
from celeray.api.snapshots import Snapshots
from celeray.scheduler.overview import TaskPage, parse_cursor, seen_by, task_page
from celeray.scheduler.status import UNFINISHED, TaskRecord, TaskState

PAGE_MAX = 500


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


def router(snapshots: Snapshots, results: ResultReader | None) -> APIRouter:
    """The routes over one source of snapshots and, where there is one, the result backend."""
    routes = APIRouter(prefix="/v1", tags=["tasks"])

    @routes.get("/tasks")
    def get_tasks(
        state: TaskState | None = None,
        queue: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        cursor: Annotated[str | None, Query(max_length=500)] = None,
    ) -> TaskPage:
        """Tasks that bridges had, those that changed last first."""
        after = _after(cursor)
        found = snapshots.store.recent_tasks(limit=limit + 1, state=state, queue=queue, after=after)
        return task_page(found, snapshots.newest(), limit)

    @routes.get("/tasks/{task_id}")
    def get_task(task_id: str) -> TaskDetail:
        """One task, wherever it ran."""
        run = snapshots.store.read_task(task_id)
        if run is not None:
            run = seen_by(snapshots.newest(), run)
        detail = combined(task_id, run, results.read(task_id) if results else None)
        if detail is None:
            raise Problem(
                404,
                f"no bridge and no stored result knows task {task_id!r}: it waits on the broker, ended too "
                "long ago, or never was",
            )
        return detail

    return routes


def _after(cursor: str | None) -> tuple[float, str] | None:
    if cursor is None:
        return None
    try:
        return parse_cursor(cursor)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from error
