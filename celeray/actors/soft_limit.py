"""The soft time limit of a task: `SoftTimeLimitExceeded` raised inside it, and nowhere else.

A signal is all that reaches code which runs in the main thread. It is armed for one call of the trace function and
disarmed before the executor's own code goes on: an exception there would kill the executor. Two guards hold that:
the handler raises only while the interrupted frame is below the trace function, and only once an arming.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from celery.exceptions import SoftTimeLimitExceeded

REPEAT_S = 0.01
"""A signal that arrives in the executor's own code does nothing, so it comes again until it was heard."""


class SoftTimeLimit:
    """Owner of SIGUSR1 in an executor, which raises as in Celery's prefork child, and of SIGALRM while armed."""

    def __init__(self, trace_function: Callable[..., object]) -> None:
        self._code: CodeType = trace_function.__code__
        self._limit_s: float | None = None

    def install(self) -> None:
        """Listen to SIGUSR1 from now on. Main thread only, as Python demands."""
        signal.signal(signal.SIGUSR1, self._on_signal)

    @contextmanager
    def armed(self, limit_s: float | None) -> Iterator[None]:
        """Within the block the limit counts. None or 0: no limit, and SIGALRM is the task's own to use."""
        if not limit_s:
            yield
            return
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
            if frame.f_code is self._code:
                return True
            frame = frame.f_back
        return False
