"""`/v1/learned` and `/v1/learned/reset`: what runs were seen to use of a device, and the way to forget it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from celeray.api.access import said_by
from celeray.api.snapshots import Snapshots
from celeray.scheduler.clock import Clock
from celeray.scheduler.learned.overview import LearnedList, LearnedReset, read_learned, reset_of
from celeray.scheduler.learned.store import LearnedStore


class ResetRequest(BaseModel):
    """The body of a reset."""

    model_config = ConfigDict(extra="forbid")

    task: str
    """Full name of the task."""
    gpu_type: str | None = None
    """Of this device model only. None: of all."""
    why: str
    """1 to 500 characters on one line."""


def router(snapshots: Snapshots, clock: Clock) -> APIRouter:
    """The routes over one source of snapshots."""
    routes = APIRouter(prefix="/v1", tags=["tasks"])
    client, keys = snapshots.store.client, snapshots.store.keys
    store = LearnedStore(client, keys)

    @routes.get("/learned")
    def get_learned() -> LearnedList:
        """VRAM that runs were seen to use, beside what they asked for, by task name and device model."""
        return read_learned(client, keys, snapshots.settings, clock.time())

    @routes.post("/learned/reset")
    def reset_learned(body: ResetRequest, request: Request) -> LearnedReset:
        """Forget what was learned of a task: its requests count as declared until enough runs were seen again."""
        forgotten = store.reset(
            body.task, gpu_type=body.gpu_type, by=said_by(request), why=body.why, now=clock.time()
        )
        return reset_of(body.task, forgotten)

    return routes
