"""Builds the FastAPI app from its parts. It needs Redis only: no Ray, and no code of the user's."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from celeray.api import problems, reference
from celeray.api.access import Access
from celeray.api.bodies import Bodies
from celeray.api.guard import Guard
from celeray.api.results import ResultReader
from celeray.api.routes import (
    cluster,
    dead_letters,
    draining,
    explaining,
    learned,
    limits,
    operations,
    pausing,
    tasks,
)
from celeray.api.snapshots import Snapshots
from celeray.api.token_file import TokenFile
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.draining import Drains
from celeray.scheduler.pausing import Pauses
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.topology import BrokerKind


def create_app(
    settings: Settings,
    store: StatusStore,
    results: ResultReader | None = None,
    broker_kind: BrokerKind = BrokerKind.REDIS,
) -> FastAPI:
    """The API over one Redis.

    Args:
        store: of the Redis where the broker is.
        results: the result backend; None: `/v1/tasks/{id}` knows only what ran in bridges.
        broker_kind: of the app, where one is known: queues can be paused on Redis only.
    """
    app = FastAPI(
        title="celeray",
        version=version("celeray"),
        description="What runs where on the GPU cluster, what waits, and why; pausing of queues, draining of devices "
        "and nodes, and dead letters.",
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    snapshots = Snapshots(store, settings)
    app.include_router(cluster.router(snapshots))
    app.include_router(limits.router(snapshots))
    app.include_router(tasks.router(snapshots, results))
    app.include_router(explaining.router(snapshots, results, SystemClock()))
    app.include_router(learned.router(snapshots, SystemClock()))
    app.include_router(pausing.router(snapshots, Pauses(store, settings, broker_kind), SystemClock()))
    app.include_router(draining.router(snapshots, Drains(store), SystemClock()))
    app.include_router(dead_letters.router(snapshots, SystemClock()))
    app.include_router(operations.router(snapshots))
    app.include_router(reference.router(app))
    problems.install(app)
    # The last one that is added is asked first: host, then token, then body.
    app.add_middleware(Bodies)
    app.add_middleware(
        Access, tokens=TokenFile(settings.tokens_file), reads_need_token=settings.reads_need_token
    )
    app.add_middleware(Guard, allowed_hosts=(settings.api_host, *settings.api_allowed_hosts))
    return app
