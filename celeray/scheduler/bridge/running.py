"""The runs that have an executor, by number and by the key that Celery knows them by."""

from __future__ import annotations

from collections.abc import Iterator

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.states import RunState

KEY_BASE = 1 << 22
"""Above every pid that Linux gives out (pid_max is at most 4,194,304)."""


class RunningRuns:
    """Reserved or begun."""

    def __init__(self) -> None:
        self._by_id: dict[int, Run] = {}
        self._by_key: dict[int, Run] = {}
        self._by_task: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._by_id.values()))

    def get(self, run_id: int | None) -> Run | None:
        """The run with this number, or None where it ended."""
        return self._by_id.get(run_id) if run_id is not None else None

    def by_key(self, key: int) -> Run | None:
        """The begun run with this key, or None where it ended."""
        return self._by_key.get(key)

    def by_task(self, task_id: str) -> Run | None:
        """The run of this task, or None where it ended. Of two the later one."""
        return self._by_task.get(task_id)

    def add(self, run: Run) -> None:
        """It is reserved for an executor."""
        self._by_id[run.run_id] = run
        self._by_task[run.task_id] = run

    def begin(self, run: Run, pid: int | None) -> int:
        """It begins in a process; returns its key: the pid, unless another node's has the same."""
        run.move(RunState.RUNNING)
        run.key = pid if pid and pid not in self._by_key else KEY_BASE + run.run_id
        self._by_key[run.key] = run
        return run.key

    def remove(self, run: Run) -> None:
        """It has ended, or waits again."""
        self._by_id.pop(run.run_id, None)
        if self._by_task.get(run.task_id) is run:
            del self._by_task[run.task_id]
        if run.key is not None:
            self._by_key.pop(run.key, None)
