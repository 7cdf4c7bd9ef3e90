"""`/v1/devices/{uuid}/drain`, `/v1/nodes/{name}/drain`, and `undrain` of both."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from celeray.api.access import said_by
from celeray.api.snapshots import Snapshots
from celeray.scheduler.clock import Clock
from celeray.scheduler.draining import (
    DRAINED_WHY,
    UNDRAINED_WHY,
    DrainChange,
    Drains,
    Subject,
    SubjectKind,
)


class DrainRequest(BaseModel):
    """The body of all four, which may be left out."""

    model_config = ConfigDict(extra="forbid")

    why: str | None = None
    """1 to 500 characters on one line. None: the word for what was done."""


def router(snapshots: Snapshots, drains: Drains, clock: Clock) -> APIRouter:
    """The routes over one store of drains."""
    routes = APIRouter(prefix="/v1", tags=["operators"])

    def drain(subject: Subject, request: Request, body: DrainRequest | None) -> DrainChange:
        why = DRAINED_WHY if body is None or body.why is None else body.why
        change = drains.drain(subject, by=said_by(request), why=why, now=clock.time())
        snapshots.forget()
        return change

    def undrain(subject: Subject, request: Request, body: DrainRequest | None) -> DrainChange:
        why = UNDRAINED_WHY if body is None or body.why is None else body.why
        change = drains.undrain(subject, by=said_by(request), why=why, now=clock.time())
        snapshots.forget()
        return change

    @routes.post("/devices/{uuid}/drain")
    def drain_device(uuid: str, request: Request, body: DrainRequest | None = None) -> DrainChange:
        """Place nothing new on the device until it is undrained. What runs there finishes; idle executors end."""
        return drain(Subject(SubjectKind.DEVICE, uuid), request, body)

    @routes.post("/devices/{uuid}/undrain")
    def undrain_device(uuid: str, request: Request, body: DrainRequest | None = None) -> DrainChange:
        """Use the device again, and forgive the XIDs that keep it out now."""
        return undrain(Subject(SubjectKind.DEVICE, uuid), request, body)

    @routes.post("/nodes/{name}/drain")
    def drain_node(name: str, request: Request, body: DrainRequest | None = None) -> DrainChange:
        """Place nothing new on the node, by name or id, until it is undrained. What runs there finishes."""
        return drain(Subject(SubjectKind.NODE, name), request, body)

    @routes.post("/nodes/{name}/undrain")
    def undrain_node(name: str, request: Request, body: DrainRequest | None = None) -> DrainChange:
        """Use the node again, and forgive the XIDs that keep its devices out now."""
        return undrain(Subject(SubjectKind.NODE, name), request, body)

    return routes
