"""A connected `RayCluster` for tests: its events in order, waited for with a deadline."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Condition
from typing import Any, TypeVar

from celeray.actors.cluster import RayCluster
from celeray.scheduler.cluster import (
    AppSpec,
    ClusterEvent,
    ClusterUp,
    ExecutorEnded,
    ExecutorSpec,
    ExecutorStarted,
    NodeRead,
    RunEnded,
    RunReturned,
    RunSpec,
)
from celeray.scheduler.model import NodeReading
from celeray.scheduler.settings import Settings

APPS = Path(__file__).parents[2] / "apps"
DEADLINE_S = 60.0

E = TypeVar("E", bound=ClusterEvent)


class LiveCluster:
    """Events of one `RayCluster`, kept in the order in which they came."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.events: list[ClusterEvent] = []
        self._changed = Condition()
        self._ids = count(1)

    def listen(self, event: ClusterEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, kind: type[E], condition: Callable[[E], bool] = lambda _: True, after: int = 0) -> E:
        """The first event of a kind that meets a condition, from place `after` on; fails after a minute."""

        def find() -> E | None:
            return next((e for e in self.events[after:] if isinstance(e, kind) and condition(e)), None)

        with self._changed:
            found = self._changed.wait_for(find, DEADLINE_S)
        assert found is not None, f"no {kind.__name__}; last events: {self.events[-5:]}"
        return found

    def reading(self, node_id: str, condition: Callable[[NodeReading], bool] = lambda _: True) -> NodeReading:
        """The next reading of a node that meets a condition."""
        place = len(self.events)
        return self.wait(
            NodeRead, lambda e: e.reading.node_id == node_id and condition(e.reading), place
        ).reading

    def spec(self, node_id: str, *devices: str, **fields: Any) -> ExecutorSpec:
        """An executor of the simple app."""
        executor_id = f"e{next(self._ids)}"
        given: dict[str, Any] = {
            "executor_class": "test",
            "share": 0.25 if devices else 0.0,
            "memory_mib": 4096 if devices else 0,
            "app": AppSpec("simple", str(APPS), "bridge@test"),
        }
        return ExecutorSpec(executor_id, node_id=node_id, device_uuids=devices, **(given | fields))

    def start(self, spec: ExecutorSpec) -> ExecutorStarted:
        """Start an executor and wait until it takes runs."""
        self.cluster.start_executor(spec)
        return self.wait(ExecutorStarted, lambda e: e.executor_id == spec.executor_id)

    def send(self, spec: ExecutorSpec, task: str, *args: Any, soft: float | None = None) -> int:
        """Begin a run and return its id."""
        run_id = next(self._ids)
        self.cluster.run(spec.executor_id, RunSpec(run_id, f"task-{run_id}", payload(task, *args), soft))
        return run_id

    def run_batch(self, spec: ExecutorSpec, *runs: RunSpec) -> None:
        """Run several tasks in one call, to the end of all or of the executor.

        What it gives back is sent again, as the bridge does: on a busy machine the first ones may take too long.
        """
        left = list(runs)
        while left and not self.ends(spec):
            place = len(self.events)
            self.cluster.run(spec.executor_id, *left)
            ids = {run.run_id for run in left}
            back = self._answered(spec, ids, place)
            left = [run for run in left if run.run_id in back]

    def _answered(self, spec: ExecutorSpec, run_ids: set[int], place: int) -> set[int]:
        """Wait until each run has ended or was given back; returns those that were given back."""

        def answers() -> list[RunEnded | RunReturned]:
            return [
                event
                for event in self.events[place:]
                if isinstance(event, RunEnded | RunReturned) and event.run_id in run_ids
            ]

        with self._changed:
            done = self._changed.wait_for(
                lambda: len(answers()) >= len(run_ids) or self.ends(spec), DEADLINE_S
            )
        assert done, f"not all of {run_ids} were answered; last events: {self.events[-5:]}"
        return {event.run_id for event in answers() if isinstance(event, RunReturned)}

    def run(
        self, spec: ExecutorSpec, task: str, *args: Any, soft: float | None = None
    ) -> tuple[int, Any, Any]:
        """Run a task to its end: what Celery's trace function returned."""
        return self.outcome(self.send(spec, task, *args, soft=soft))

    def outcome(self, run_id: int) -> tuple[int, Any, Any]:
        """What Celery's trace function returned in a run."""
        ended = self.wait(RunEnded, lambda e: e.run_id == run_id)
        outcome: tuple[int, Any, Any] = pickle.loads(ended.payload)
        return outcome

    def ended(self, spec: ExecutorSpec) -> ExecutorEnded:
        """The executor's end."""
        return self.wait(ExecutorEnded, lambda e: e.executor_id == spec.executor_id)

    def ends(self, spec: ExecutorSpec) -> int:
        """How many ends were reported of it."""
        return sum(isinstance(e, ExecutorEnded) and e.executor_id == spec.executor_id for e in self.events)


class OnceOnly:
    """A value that crosses the pipe to the driver, and that nobody can pickle there."""

    def __init__(self, left: int = 1) -> None:
        self._left = left

    def __reduce__(self) -> tuple[type, tuple[int]]:
        if not self._left:
            raise ValueError("pickled a second time")
        return OnceOnly, (self._left - 1,)


def payload(task: str, *args: Any) -> bytes:
    """Pickled arguments of Celery's trace function, as the bridge makes them from a request."""
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    request = {"id": "task", "task": task, "delivery_info": {}, "ignore_result": True}
    return pickle.dumps((task, "task", request, body.encode(), "application/json", "utf-8"))


@contextmanager
def live_cluster(address: str | None, log_file: Path, **settings: Any) -> Iterator[LiveCluster]:
    """A `RayCluster` that is up; its driver's output goes to `log_file`."""
    cluster = RayCluster(Settings(ray_address=address, **settings), "test-bridge", log_file=log_file)
    live = LiveCluster(cluster)
    cluster.start(live.listen)
    try:
        live.wait(ClusterUp)
        yield live
    finally:
        cluster.stop(20)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
