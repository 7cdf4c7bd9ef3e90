"""Builds the FastAPI app from its parts. It needs Redis only: no Ray, and no code of the user's."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from celeray.api import problems
from celeray.api.guard import Guard
from celeray.api.results import ResultReader
from celeray.api.routes import cluster, operations, tasks
from celeray.api.snapshots import Snapshots
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore


def create_app(settings: Settings, store: StatusStore, results: ResultReader | None = None) -> FastAPI:
    """The API over one Redis.

    Args:
        store: of the Redis where the broker is.
        results: the result backend; None: `/v1/tasks/{id}` knows only what ran in bridges.
    """
    app = FastAPI(
        title="celeray",
        version=version("celeray"),
        description="What runs where on the GPU cluster, what waits, and why. Read-only.",
        redirect_slashes=False,
    )
    snapshots = Snapshots(store, settings)
    app.include_router(cluster.router(snapshots))
    app.include_router(tasks.router(snapshots, results))
    app.include_router(operations.router(snapshots))
    problems.install(app)
    app.add_middleware(Guard, allowed_hosts=(settings.api_host, *settings.api_allowed_hosts))
    return app
