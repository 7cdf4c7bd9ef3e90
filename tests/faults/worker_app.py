"""The app as workers and executors load it: `-A tests.faults.worker_app`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from celery import Task

import celeray
from tests.faults.application import Config, make_app
from tests.faults.effects import EffectStore
from tests.faults.history import History

config = Config.from_environment()
app = make_app(config)
history = History(Path(config.history))


@cache
def effects() -> EffectStore:
    """Made at its first use, which is after the fork."""
    return EffectStore(config.world)


@contextmanager
def recorded(task: Task, role: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """A run: noted at its start, its effect written under its fence, noted at its end."""
    request = task.request
    run = {"id": request.id, "run": uuid.uuid4().hex[:12]}
    fence = celeray.current_fence()
    publication = (request.properties or {}).get("delivery_tag")
    history.note("start", **run, role=role, tag=publication, fence=fence, attempt=request.retries, **facts)
    goes = effects().begin(request.id, fence) == "go"
    value = {**run, "fence": fence}
    yield value
    if goes:
        effects().write(request.id, fence, run["run"])
    history.note("end", **run, role=role, **value.get("facts", {}))
    value.pop("facts", None)


SMALL = {"vram_gb": 4}


@app.task(name="faults.work", bind=True, shared=False)
def work(self: Task, seconds: float) -> dict[str, Any]:
    """Takes its time."""
    with recorded(self, "work") as value:
        time.sleep(seconds)
    return value


@app.task(name="faults.gpu_work", bind=True, shared=False, resource_requirements=SMALL)
def gpu_work(self: Task, seconds: float) -> dict[str, Any]:
    """The same on a device."""
    with recorded(self, "work") as value:
        time.sleep(seconds)
    return value


@app.task(name="faults.part", bind=True, shared=False, resource_requirements={"gpu": False})
def part(self: Task, seconds: float) -> dict[str, Any]:
    """Of a chord."""
    with recorded(self, "part") as value:
        time.sleep(seconds)
    return value


@app.task(name="faults.body", bind=True, shared=False, resource_requirements={"gpu": False})
def body(self: Task, given: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a chord: notes which parts it was given."""
    with recorded(self, "body") as value:
        value["facts"] = {"parts": [item["id"] for item in given]}
    return value


@app.task(name="faults.callback", bind=True, shared=False, resource_requirements={"gpu": False})
def callback(self: Task, given: dict[str, Any]) -> dict[str, Any]:
    """Of a piece of work."""
    with recorded(self, "callback", of=given["id"]) as value:
        pass
    return value


@app.task(
    name="faults.once",
    bind=True,
    shared=False,
    ignore_result=True,
    resource_requirements={"gpu": False},
    deduplicate={"key": "{args[0]}", "for_s": 3600, "until": "both"},
)
def once(self: Task, name: str) -> None:
    """Counts the runs of a key."""
    effects().count(name, self.request.id, celeray.current_fence(), uuid.uuid4().hex[:12])
