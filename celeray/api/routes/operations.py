"""`/metrics`, `/healthz` and `/readyz`: for Prometheus and for whoever restarts processes."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel
from redis import RedisError

from celeray.api.metrics_collector import picture_of, render
from celeray.api.problems import Problem
from celeray.api.snapshots import Snapshots
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.learned.overview import read_learned
from celeray.scheduler.letters.store import Letters

logger = logging.getLogger(__name__)


class Health(BaseModel):
    status: str


def router(snapshots: Snapshots) -> APIRouter:
    """The routes over one source of snapshots."""
    routes = APIRouter(tags=["operations"])
    letters = Letters(snapshots.store.client, snapshots.store.keys)

    @routes.get("/metrics", response_class=Response)
    def get_metrics(accept: Annotated[str, Header()] = "") -> Response:
        """Prometheus or OpenMetrics text; docs/metrics.md explains each."""
        settings, store = snapshots.settings, snapshots.store
        learned = read_learned(store.client, store.keys, settings, SystemClock().time())
        counts = letters.reasons(), learned.tasks, letters.count_scheduled()
        picture = picture_of(snapshots.newest(), settings, *counts)
        page, content_type = render(picture, accept, celery_compat=snapshots.settings.metrics_celery_compat)
        return Response(page, headers={"Content-Type": content_type})

    @routes.get("/healthz")
    def get_health() -> Health:
        """200 as long as this process answers."""
        return Health(status="alive")

    @routes.get("/readyz")
    def get_ready() -> Health:
        """200 when Redis answers and a bridge writes there; else 503 with the reasons."""
        reasons = []
        try:
            if not snapshots.newest().bridges:
                reasons.append("no bridge is up")
        except RedisError as error:
            logger.warning("not ready: %s", error)
            reasons.append("Redis does not answer")
        if reasons:
            raise Problem(503, "; ".join(reasons), reasons=reasons)
        return Health(status="ready")

    return routes
