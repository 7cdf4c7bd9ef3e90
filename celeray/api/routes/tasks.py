"""`/v1/tasks` and `/v1/tasks/{id}`: what ran where, and how it ended. Arguments and results are never shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError

from celeray.api.problems import Problem
from celeray.api.results import ResultReader
from celeray.api.snapshots import Snapshots
from celeray.api.task_detail import TaskDetail, combined
from celeray.scheduler.overview import TaskPage, parse_cursor, seen_by, task_page
from celeray.scheduler.status import TaskState

PAGE_MAX = 500


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
