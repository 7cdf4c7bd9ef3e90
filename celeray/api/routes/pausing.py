"""`/v1/queues/{name}/pause`, `/resume` and `/v1/audit`: what operators change, and the trail of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from celeray.api.access import said_by
from celeray.api.snapshots import Snapshots
from celeray.scheduler.audit import AuditPage, AuditTrail
from celeray.scheduler.clock import Clock
from celeray.scheduler.pausing import RESUMED_WHY, PauseChange, Pauses

PAGE_MAX = 500


class PauseRequest(BaseModel):
    """The body of a pause."""

    model_config = ConfigDict(extra="forbid")

    why: str
    """1 to 500 characters on one line."""


class ResumeRequest(BaseModel):
    """The body of a resume, which may be left out."""

    model_config = ConfigDict(extra="forbid")

    why: str = RESUMED_WHY


def router(snapshots: Snapshots, pauses: Pauses, clock: Clock) -> APIRouter:
    """The routes over one store of pauses."""
    routes = APIRouter(prefix="/v1", tags=["operators"])
    trail = AuditTrail(snapshots.store.client, snapshots.store.keys)

    @routes.post("/queues/{name}/pause")
    def pause_queue(name: str, body: PauseRequest, request: Request) -> PauseChange:
        """Let no worker take from the queue until it is resumed. Running tasks finish; submissions still queue up."""
        change = pauses.pause(name, by=said_by(request), why=body.why, now=clock.time())
        snapshots.forget()
        return change

    @routes.post("/queues/{name}/resume")
    def resume_queue(name: str, request: Request, body: ResumeRequest | None = None) -> PauseChange:
        """Let workers take from the queue again."""
        why = body.why if body else RESUMED_WHY
        change = pauses.resume(name, by=said_by(request), why=why, now=clock.time())
        snapshots.forget()
        return change

    @routes.get("/audit")
    def get_audit(
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        cursor: Annotated[str | None, Query(max_length=50)] = None,
    ) -> AuditPage:
        """Who changed what, when and why, the newest first."""
        try:
            return trail.page(limit, cursor)
        except ValueError as error:
            raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from error

    return routes
