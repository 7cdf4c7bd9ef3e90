"""The Ray actor around `ExecutorCore`.

One concurrency group of one thread: Ray then runs its methods one after the other in the process's main thread,
which is where a soft time limit can reach a task (measured with Ray 2.60).
"""

from __future__ import annotations

import pickle

import ray

from celeray.actors.executor_core import ExecutorCore
from celeray.actors.processes import ProcessId, this_process
from celeray.scheduler.cluster import ExecutorSpec


class Executor:
    """Created empty, so that its process is known before the app's import, which may hang, begins."""

    def __init__(self, executor_class: str) -> None:
        self._executor_class = executor_class
        self._core: ExecutorCore | None = None

    def __repr__(self) -> str:
        # What Ray puts before each line of this process's output.
        return self._executor_class

    def identify(self) -> ProcessId:
        """The process, for the bridge and for the node agent."""
        return this_process()

    def load(self, spec: ExecutorSpec, holds_folder: str | None) -> ProcessId:
        """Load the app; the process again, so that the caller needs no other answer.

        Raises:
            Exception: whatever the import of the app raises; Ray hands it to the caller.
        """
        self._core = ExecutorCore(spec, holds_folder)
        self._core.load()
        return this_process()

    def run(self, runs: bytes) -> bytes:
        """Run tasks: a pickled tuple of `RunSpec`; returns as `ExecutorCore.run` does."""
        assert self._core is not None
        return self._core.run(pickle.loads(runs))  # noqa: S301 - from the driver of this executor

    def shutdown(self) -> None:
        """Leave after what was called before, with Celery's shutdown signals."""
        if self._core is not None:
            self._core.shutdown()
        ray.actor.exit_actor()
