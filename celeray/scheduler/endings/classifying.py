"""Which outcome an exception is, where the task ran and in its worker."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from celeray.scheduler.errors import NeverFitsError, OutOfGpuMemoryError, RequirementError
from celeray.scheduler.gpu_memory import is_out_of_gpu_memory
from celeray.scheduler.outcomes import Outcome

_MARK = "celeray_outcome"
"""Attribute of an exception: its outcome, decided where the task ran, since the chain of its causes does not travel."""
OUT_OF_MEMORY = "killed by the kernel, out of host memory"
"""How the bridge says so. What Ray says of any process that was killed names the kernel as one of several causes."""
_SHORT_OF_MEMORY = re.compile(rf"running low on memory|OutOfMemory|memory pressure|{OUT_OF_MEMORY}")
"""How Ray says that it killed a process to save its node, and the bridge that the kernel did."""
_NODE_GONE = re.compile(r"node \S+ is gone$|[Nn]ode (?:has )?died|node failure")
"""How the bridge and Ray say that a process went with its node."""
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
KILLED = "SIGKILL"
"""In billiard's text about a process that was killed."""


def outcome_of_body(error: BaseException) -> Outcome:
    """The outcome of an exception that a task's body raised; it is noted on the exception."""
    found = _of_class(error)
    # An exception may refuse attributes; its worker then decides by the class alone.
    with suppress(Exception):
        setattr(error, _MARK, found.value)
    return found


def outcome_of_failure(error: BaseException) -> Outcome:
    """The outcome of an exception with which a run or a message failed, seen by its worker."""
    noted = getattr(error, _MARK, None)
    if isinstance(noted, str) and noted in _OUTCOMES:
        return Outcome(noted)
    match error:
        case TimeLimitExceeded():
            return Outcome.TIME_LIMIT
        case OutOfGpuMemoryError():
            return Outcome.GPU_MEMORY
        case NeverFitsError():
            return Outcome.NEVER_FITS
        case RequirementError():
            return Outcome.BAD_REQUEST
        case WorkerLostError():
            return Outcome.WORKER_LOST
        case _:
            return _of_class(error)


def outcome_of_lost_executor(detail: str) -> Outcome:
    """The outcome of a run that died with its executor, by what is known of that."""
    if _SHORT_OF_MEMORY.search(detail):
        return Outcome.HOST_MEMORY
    return Outcome.NODE_LOST if _NODE_GONE.search(detail) else Outcome.EXECUTOR_LOST


def node_gone(node_id: str) -> str:
    """How the detail of an executor ends that was lost with its node."""
    return f"node {node_id} is gone"


def names_of(error: type[BaseException]) -> frozenset[str]:
    """The class and those that it inherits from, with and without their modules."""
    return frozenset(
        name for cls in error.__mro__ for name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
    )


def error_of(info: Any) -> BaseException:
    """The exception in what a pool reports."""
    error: BaseException = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _of_class(error: BaseException) -> Outcome:
    if isinstance(error, SoftTimeLimitExceeded):
        return Outcome.SOFT_TIME_LIMIT
    if is_out_of_gpu_memory(error):
        return Outcome.GPU_MEMORY
    return Outcome.HOST_MEMORY if isinstance(error, MemoryError) else Outcome.EXCEPTION
