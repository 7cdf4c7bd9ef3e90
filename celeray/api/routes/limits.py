"""`/v1/limits`: what waits for cluster-wide limits, and which runs are in the way."""

from __future__ import annotations

from fastapi import APIRouter

from celeray.api.snapshots import Snapshots
from celeray.scheduler.limits.overview import LimitList, read_limits


def router(snapshots: Snapshots) -> APIRouter:
    """The route over one source of snapshots."""
    routes = APIRouter(prefix="/v1", tags=["cluster"])

    @routes.get("/limits")
    def get_limits() -> LimitList:
        """Limits in use, by how many messages wait for each. At most 500; `more` says how many are not shown."""
        return read_limits(snapshots.store.client, snapshots.store.keys)

    return routes
