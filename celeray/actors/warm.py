"""A warm executor as the driver sees it: one Ray actor, its runs, and its one end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from celeray.actors.endings import Endings
from celeray.actors.event_port import EventPort
from celeray.actors.executor import Executor
from celeray.actors.executor_core import LEFT
from celeray.actors.processes import ProcessId
from celeray.actors.ray_errors import describe
from celeray.scheduler.cluster import (
    EndCause,
    ExecutorEnded,
    ExecutorSpec,
    ExecutorStarted,
)

ACTOR_DEAD = 4
"""ActorTableData.DEAD in Ray's gcs.proto."""

_executor_class = ray.remote(Executor)


class WarmExecutor:
    """Callbacks come on Ray's threads, commands on the main one; the end is decided once, under a lock."""

    def __init__(
        self, spec: ExecutorSpec, port: EventPort, endings: Endings, forget: Callable[[str], None]
    ) -> None:
        self._spec = spec
        self._port = port
        self._endings = endings
        self._forget = forget
        self._lock = Lock()
        self._ended = False
        self._stopping = False
        self._loaded = False
        self._actor: Any = None
        self._submit: Callable[[bytes], Any]
        self.process: ProcessId | None = None

    @property
    def node_id(self) -> str:
        return self._spec.node_id

    def start(self, options: dict[str, Any], holds_folder: str | None) -> None:
        """Create the actor and load the app; `ExecutorStarted` or `ExecutorEnded` follows."""
        options = options | {"num_cpus": 0, "num_gpus": self._spec.share, "max_restarts": 0}
        self._actor = _executor_class.options(**options).remote(self._spec.executor_class)
        # An actor's handle makes each method anew at each access.
        self._submit = self._actor.run.remote
        self._then(self._actor.identify.remote(), self._on_identified)
        self._then(self._actor.load.remote(self._spec, holds_folder), self._on_loaded)

    def run(self, runs: bytes) -> None:
        """Run tasks, one or a batch, after those that it already has."""
        self._then(self._submit(runs), self._on_outcome)

    def stop(self, *, force: bool) -> None:
        """End it: after its current run, or at once."""
        self._stopping = True
        if force:
            ray.kill(self._actor, no_restart=True)
        else:
            self._then(self._actor.shutdown.remote(), lambda _: None)

    def fail(self, detail: str) -> None:
        """End it at once: a command for it failed, so what it does is not known any more."""
        self._end(detail, kill=self._actor is not None)

    def check(self) -> None:
        """Notice the death of an idle actor: the driver's own copy of its state, so this costs nothing."""
        actor = self._actor
        # Not created yet where the command to start it is under way on the main thread.
        if actor is not None and not self._ended and actor._get_local_state() == ACTOR_DEAD:
            # Ray answers a call to a dead actor at once, with the reason of its death.
            self._then(actor.identify.remote(), lambda _: None)

    def _then(self, ref: Any, on_value: Callable[[Any], None]) -> None:
        ref.future().add_done_callback(partial(self._on_done, on_value))

    def _on_done(self, on_value: Callable[[Any], None], future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            on_value(future.result())
        elif isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError):
            self._end(describe(error))
        else:
            # It may live, cut off or failed at something that is not a task: it can't be trusted any more.
            self._end(describe(error), kill=True)

    def _on_identified(self, process: ProcessId) -> None:
        self.process = process

    def _on_loaded(self, process: ProcessId) -> None:
        self.process, self._loaded = process, True
        self._port.emit(ExecutorStarted(self._spec.executor_id, process.pid))

    def _on_outcome(self, outcome: bytes) -> None:
        if outcome[:1] == LEFT:
            self._end(outcome[1:].decode(), kill=True)
        else:
            self._port.forward(memoryview(outcome)[1:])

    def _end(self, detail: str, *, kill: bool = False) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        end = ExecutorEnded(self._spec.executor_id, self._cause(), detail)
        self._endings.report(
            end,
            node_id=self._spec.node_id,
            process=self.process,
            then=partial(self._forget, self._spec.executor_id),
            actor=self._actor if kill else None,
        )

    def _cause(self) -> EndCause:
        if self._stopping:
            return EndCause.STOPPED
        return EndCause.DIED if self._loaded else EndCause.START_FAILED
