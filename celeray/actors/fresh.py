"""The Ray task of `isolation="fresh"`: a process that runs one Celery task and ends with it."""

from __future__ import annotations

from collections.abc import Iterator

from celeray.actors.executor_core import ExecutorCore
from celeray.actors.processes import ProcessId, this_process
from celeray.scheduler.cluster import ExecutorSpec, RunSpec


def run_fresh(spec: ExecutorSpec, run: RunSpec, holds_folder: str | None) -> Iterator[ProcessId | bytes]:
    """Load the app, then yield the process (the task begins), then how the task ended, as `ExecutorCore.run`
    returns it.

    Raises:
        Exception: whatever the import of the app raises; Ray hands it to the caller.
    """
    core = ExecutorCore(spec, holds_folder)
    core.load()
    yield this_process()
    yield core.run((run,))
    core.shutdown()
