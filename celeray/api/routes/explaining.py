"""`/v1/tasks/{id}/explain` and `/v1/explain`: why a task waits, and what would become of a request."""

from __future__ import annotations

import threading

from fastapi import APIRouter

from celeray.api.explained import TaskExplanation, read_explanation
from celeray.api.problems import Problem
from celeray.api.results import ResultReader
from celeray.api.snapshots import Snapshots
from celeray.scheduler.clock import Clock
from celeray.scheduler.explanations.answers import DryRun
from celeray.scheduler.explanations.reading import DryRunBody, dry_run


def router(snapshots: Snapshots, results: ResultReader | None, clock: Clock) -> APIRouter:
    """The routes over one source of snapshots and, where there is one, the result backend."""
    routes = APIRouter(prefix="/v1", tags=["tasks"])
    # A forecast may take a second of CPU: one at a time, so that the other routes go on being served.
    one_at_a_time = threading.Lock()

    @routes.get("/tasks/{task_id}/explain")
    def explain_task(task_id: str) -> TaskExplanation:
        """Why one task waits, where it runs or how it ended."""
        with one_at_a_time:
            found = read_explanation(task_id, snapshots.store, snapshots.newest(), results)
        if found is None:
            raise Problem(
                404,
                f"no bridge, no stored result and no dead letter knows task {task_id!r}: it waits on the broker, ended "
                "too long ago, or never was",
            )
        return found

    @routes.post("/explain")
    def explain_requests(body: DryRunBody) -> DryRun:
        """What would become of a request, or of a batch of at most 1,000, if it were submitted now. Submits nothing."""
        with one_at_a_time:
            return dry_run(
                snapshots.store, snapshots.newest().bridges, snapshots.settings, body, clock.time()
            )

    return routes
