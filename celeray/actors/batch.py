"""Running the tasks of one call, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from billiard.einfo import ExceptionInfo

from celeray.actors.journal import Journal
from celeray.actors.tracing import Left, RanOut, pickle_outcome
from celeray.scheduler.cluster import RunEnded, RunOutOfMemory, RunReturned, RunSpec
from celeray.scheduler.result_batch import BatchingMixin

OVERTIME_S = 0.1
"""A batch that has taken so long gives back what it has not begun. Five times what it was predicted to take."""

RunOne = Callable[[RunSpec], bytes | Left | RanOut]
End = RunEnded | RunReturned | RunOutOfMemory


class Batch:
    """One call. Ends are final, and in the journal, once what their tasks stored is stored."""

    def __init__(self, executor_id: str, journal: Journal, backend: Any) -> None:
        """
        Args:
            backend: the app's result backend; one that is not ours stores each result by itself.
        """
        self._executor_id = executor_id
        self._journal = journal
        self._backend = backend
        self._unsaid: list[RunEnded] = []
        """Ended, and not in the journal yet."""

    def run(self, runs: Sequence[RunSpec], run_one: RunOne) -> list[End] | Left:
        """Run them in order. The first task that ends its process, or runs out of GPU memory, ends the batch, too."""
        self._journal.begin_batch()
        task_ids = {run.run_id: run.task_id for run in runs}
        ends: list[End] = []
        left: Left | None = None
        give_up_at = time.monotonic() + OVERTIME_S
        with self._holding() as held:
            for position, run in enumerate(runs):
                begin = time.monotonic()
                if position and begin > give_up_at:
                    ends += self._returned(runs[position:])
                    break
                self._journal.begun(run.run_id)
                outcome = run_one(run)
                if isinstance(outcome, Left):
                    left = outcome
                    break
                if isinstance(outcome, RanOut):
                    self._journal.returned()
                    ends.append(RunOutOfMemory(self._executor_id, run.run_id, outcome.detail))
                    ends += self._returned(runs[position + 1 :])
                    break
                end = RunEnded(self._executor_id, run.run_id, outcome, None, time.monotonic() - begin)
                ends.append(end)
                self._note(end, held)
            else:
                self._journal.returned()
        if left is not None:
            return left
        if held is None or not held.failed:
            return ends
        return [_failed(end, held.failed.get(task_ids[end.run_id])) for end in ends]

    def _returned(self, runs: Sequence[RunSpec]) -> list[RunReturned]:
        return [RunReturned(self._executor_id, run.run_id) for run in runs]

    def _holding(self) -> AbstractContextManager[Any]:
        if isinstance(self._backend, BatchingMixin):
            return self._backend.batch(self._say)
        return nullcontext()

    def _note(self, end: RunEnded, held: Any) -> None:
        if held is None:
            self._journal.ended([end])
            return
        with held.lock:
            self._unsaid.append(end)
            if not held.holds:
                self._say()

    def _say(self) -> None:
        said, self._unsaid = self._unsaid, []
        self._journal.ended(said)


def _failed(end: End, error: Exception | None) -> End:
    """The end of a task whose result could not be stored, as of any task that failed."""
    if error is None or not isinstance(end, RunEnded):
        return end
    try:
        raise error
    except Exception:  # noqa: BLE001 - raised in the line above, for its traceback
        return end._replace(payload=pickle_outcome(1, ExceptionInfo(), end.seconds))
