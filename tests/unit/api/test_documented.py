"""docs/rest.md names every route and every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import redis
from fastapi.routing import APIRoute

from celeray.api.app import create_app
from celeray.scheduler.model import Reason
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import TaskState
from celeray.scheduler.status_store import StatusStore

DOCUMENT = (Path(__file__).parents[3] / "docs" / "rest.md").read_text()
OF_FASTAPI = {"/openapi.json", "/docs"}


def test_routes() -> None:
    app = create_app(Settings(), StatusStore(redis.Redis()))
    routes = {f"GET {path}" for path in app.openapi()["paths"]}
    assert routes
    assert all(route.methods == {"GET"} for route in app.routes if isinstance(route, APIRoute))
    documented = set(re.findall(r"`(GET /[^`]*)`", DOCUMENT))
    assert documented == routes | {f"GET {path}" for path in OF_FASTAPI}


def test_reasons_and_states() -> None:
    table = DOCUMENT.partition("the task waits since")[2].partition("## Tasks")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(Reason)
    states = DOCUMENT.partition("`state` is one of")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", states)) == set(TaskState)
