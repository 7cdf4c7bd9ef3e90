"""Where each task of the demo ran, from celeray's REST; times on Celery's own workers come from their events."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

from celery import Celery
from celery.result import AsyncResult, GroupResult

ROW_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Api:
    """celeray's REST on this machine."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """The answer's JSON; None for 404 or where there is none yet.

        Raises:
            OSError: nobody listens.
            RuntimeError: another status; the message has it.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"GET {path}: {answer.status} {body[:300].decode(errors='replace')}")
        return json.loads(body)


@dataclass(frozen=True, slots=True)
class Where:
    """One row of the demo's table. Seconds; None is unknown."""

    task: str
    queue: str
    node: str
    devices: tuple[str, ...] = ()
    vram_mib: int | None = None
    wait_s: float | None = None
    run_s: float | None = None


class Watcher:
    """Collects the workers' events in a thread, from `start` to `stop`."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._state = app.events.State()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="demo-events", daemon=True)

    def start(self) -> Watcher:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def times(self, task_id: str) -> tuple[float | None, float | None]:
        """Seconds from received to started, and of the run; None where the events have not said it."""
        task = self._state.tasks.get(task_id)
        if task is None or not task.started or not task.received:
            return None, None
        return task.started - task.received, task.runtime

    def _receive(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self._state.event})
            while not self._stopping.is_set():
                try:
                    for _ in receiver.itercapture(limit=None, timeout=0.2, wakeup=False):
                        pass
                except TimeoutError:
                    continue


def where(task_id: str, api: Api, watcher: Watcher) -> Where:
    """One row: of the bridge's record where a bridge ran the task, else of its result and Celery's events.

    Raises:
        RuntimeError: neither knows the task.
    """
    detail = api.get(f"/v1/tasks/{task_id}")
    if detail is None:
        raise RuntimeError(f"the API knows no task {task_id}")
    run, result = detail["run"], detail["result"]
    if run is None:
        wait_s, run_s = watcher.times(task_id)
        return Where(
            _short(result["name"]), result["queue"] or "", result["worker"] or "", (), None, wait_s, run_s
        )
    return Where(
        task=_short(run["name"]),
        queue=run["queue"],
        node=run["node_name"] or "",
        devices=tuple(run["device_uuids"]),
        vram_mib=run["vram_mib"],
        wait_s=run["wait_s"],
        run_s=run["run_s"],
    )


def await_row(task_id: str, api: Api, watcher: Watcher) -> Where:
    """The row of a task that has ended, once its record and times have come too: they follow the result.

    A bridge's task has its times from events before the bridge's record says which device it had, so that a row
    without the record is not taken for one of a plain worker. After `ROW_DEADLINE_S` seconds the row comes as it
    is then.
    """
    deadline = time.monotonic() + ROW_DEADLINE_S
    bridges = {bridge["hostname"] for bridge in api.get("/v1/status")["bridges"]}
    while True:
        row = where(task_id, api, watcher)
        complete = row.run_s is not None and row.node not in bridges
        if complete or time.monotonic() > deadline:
            return row
        time.sleep(0.1)


def task_ids(result: Any) -> list[str]:
    """Ids of all tasks that led to a result, in the order in which they ran; a group's side by side."""
    found: dict[str, None] = {}
    _collect(result, found)
    return list(found)


def _collect(result: AsyncResult[Any] | GroupResult | None, found: dict[str, None]) -> None:
    if result is None:
        return
    _collect(result.parent, found)
    if isinstance(result, GroupResult):
        for member in result.results:
            _collect(member, found)
    else:
        found[result.id] = None


def _short(name: str | None) -> str:
    return (name or "").rpartition(".")[2]
