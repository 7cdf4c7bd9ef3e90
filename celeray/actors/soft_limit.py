"""The soft time limit of a task: `SoftTimeLimitExceeded` raised inside it, and nowhere else.

A signal is all that reaches code which runs in the main thread. It is armed for one run and disarmed before the
executor's own code goes on: an exception there would kill the executor. Two guards hold that: the handler raises only
while the task's own function is among the interrupted frames, and only once a run. So a limit that ends while Celery
stores the result of a finished task, or sends its callbacks, changes nothing any more.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

REPEAT_S = 0.01
"""A signal that arrives outside the task's function does nothing, so it comes again until it was heard."""


class SoftTimeLimit:
    """Owner of SIGUSR1 in an executor, which raises as in Celery's prefork child, and of SIGALRM while armed."""

    def __init__(self, trace_function: Callable[..., object]) -> None:
        """Prepare.

        Args:
            trace_function: what calls the task; its frame stands for a task that is no Python function.
        """
        self._trace_code = trace_function.__code__
        self._task_codes: frozenset[CodeType] = frozenset()
        self._limit_s: float | None = None

    def install(self) -> None:
        """Listen to SIGUSR1 from now on. Main thread only, as Python demands."""
        signal.signal(signal.SIGUSR1, self._on_signal)

    @contextmanager
    def armed(self, task: Any, limit_s: float | None) -> Iterator[None]:
        """Within the block signals reach `task`.

        Args:
            task: the Celery task that the block runs; None: unknown here, and then nothing is raised.
            limit_s: seconds. None or 0: no limit, and SIGALRM is the task's own to use.
        """
        self._task_codes = frozenset() if task is None else _codes_of(task) or frozenset({self._trace_code})
        try:
            if limit_s:
                with self._timer(limit_s):
                    yield
            else:
                yield
        finally:
            self._task_codes = frozenset()

    @contextmanager
    def _timer(self, limit_s: float) -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        self._limit_s = limit_s
        signal.setitimer(signal.ITIMER_REAL, limit_s, REPEAT_S)
        try:
            yield
        finally:
            self._disarm()
            # After the timer: the default action of a late signal would end the process.
            signal.signal(signal.SIGALRM, before)

    def _disarm(self) -> None:
        self._limit_s = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        if self._limit_s is not None and self._in_task(frame):
            limit_s = self._limit_s
            self._disarm()
            raise SoftTimeLimitExceeded(limit_s)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._in_task(frame):
            raise SoftTimeLimitExceeded

    def _in_task(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code in self._task_codes:
                return True
            frame = frame.f_back
        return False


def _codes_of(task: Any) -> frozenset[CodeType]:
    """Code of the functions that a task consists of; empty where `run` is no Python function."""
    run = getattr(getattr(task.run, "__func__", task.run), "__code__", None)
    call = getattr(type(task).__call__, "__code__", None)
    return frozenset() if run is None else frozenset(code for code in (run, call) if code is not None)
