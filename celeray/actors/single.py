"""A fresh executor as the driver sees it: nothing until it gets its task, then one Ray task, then gone."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from typing import Any

import ray

from celeray.actors.endings import Endings
from celeray.actors.event_port import EventPort
from celeray.actors.executor_core import LEFT
from celeray.actors.fresh import run_fresh
from celeray.actors.processes import ProcessId
from celeray.actors.ray_errors import describe
from celeray.scheduler.cluster import EndCause, ExecutorEnded, ExecutorSpec, RunSpec, RunStarted

_fresh_task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(run_fresh)


class FreshExecutor:
    """A thread of its own reads the Ray task's stream; the process start beside it costs a second."""

    def __init__(
        self, spec: ExecutorSpec, port: EventPort, endings: Endings, forget: Callable[[str], None]
    ) -> None:
        self._spec = spec
        self._port = port
        self._endings = endings
        self._forget = forget
        self._lock = Lock()
        self._task: Any = None
        self._holds_folder: str | None = None
        self._stream: Any = None
        self._stopping = False
        self._ended = False
        self.process: ProcessId | None = None

    @property
    def node_id(self) -> str:
        return self._spec.node_id

    def start(self, options: dict[str, Any], holds_folder: str | None) -> None:
        """Remember where to run; the process starts with `run`."""
        # Backpressure of one: the task begins only after this side has the process that runs it, so that a task
        # which kills its process at once is never taken for one that did not start.
        self._task = _fresh_task.options(
            num_gpus=self._spec.share,
            num_returns="streaming",
            _generator_backpressure_num_objects=1,
            **options,
        )
        self._holds_folder = holds_folder

    def run(self, runs: bytes) -> None:
        """Start the process for this one task. A second run is a defect of the caller and is ignored."""
        (run,) = pickle.loads(runs)  # noqa: S301 - the bridge's own, see channel.py
        with self._lock:
            if self._stream is not None or self._stopping or self._ended:
                return
            self._stream = self._task.remote(self._spec, run, self._holds_folder)
        Thread(target=self._follow, args=(run,), name="celeray-fresh", daemon=True).start()

    def stop(self, *, force: bool) -> None:
        """End the process at once with `force`; without, a running task goes on to its end."""
        with self._lock:
            self._stopping = True
            stream = self._stream
        if stream is None:
            self._report(EndCause.STOPPED, "stopped before it had a task")
        elif force:
            ray.cancel(stream, force=True)

    def fail(self, detail: str) -> None:
        """End it at once: a command for it failed, so what it does is not known any more.

        Where it has a process, that is killed by the node's agent before the end is reported.
        """
        self._report(self._cause(), detail)

    def check(self) -> None:
        """Nothing to notice: the stream ends when the process does."""

    def _follow(self, run: RunSpec) -> None:
        try:
            for ref in self._stream:
                item = ray.get(ref)
                if self._ended:
                    # It failed before it had a process: the task has not begun yet, and must not.
                    ray.cancel(self._stream, force=True)
                elif isinstance(item, ProcessId):
                    self.process = item
                    self._port.emit(RunStarted(self._spec.executor_id, run.run_id, item.pid))
                else:
                    self._on_outcome(item)
            self._report(EndCause.STOPPED, "ended with its task")
        except _LeftError as error:
            self._report(EndCause.DIED, str(error))
        except Exception as error:  # noqa: BLE001 - this thread is all that watches it
            self._report(self._cause(), describe(error))

    def _on_outcome(self, outcome: bytes) -> None:
        if outcome[:1] == LEFT:
            raise _LeftError(outcome[1:].decode())
        self._port.forward(memoryview(outcome)[1:])

    def _cause(self) -> EndCause:
        if self._stopping:
            return EndCause.STOPPED
        return EndCause.START_FAILED if self.process is None else EndCause.DIED

    def _report(self, cause: EndCause, detail: str) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._endings.report(
            ExecutorEnded(self._spec.executor_id, cause, detail),
            node_id=self._spec.node_id,
            process=self.process,
            then=partial(self._forget, self._spec.executor_id),
        )


class _LeftError(Exception):
    """The task ended its process by SystemExit or KeyboardInterrupt."""
