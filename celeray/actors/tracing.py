"""Running one task through Celery's own trace function, and making its outcome fit to travel.

Every end becomes one of two things, so that no exception leaves an executor unexplained:

* an outcome, the trace function's `(failed, retval, runtime)`. An exception that escapes the trace function (a body
  that can't be decoded, a task that this process does not know, MemoryError) is stored as the task's failure first,
  with errbacks, by Celery's own code. Celery's prefork pool hands MemoryError to the worker's main process, which
  dies of it; here it fails the task that asked for too much.
* the wish to leave: SystemExit and KeyboardInterrupt raised by a task. A prefork child exits then and Celery takes
  the task as lost with its worker, so the executor ends likewise and the task is lost with it.

A third one is none of the task's: its GPU memory ran out, and the bridge places it again.
"""

from __future__ import annotations

import pickle
import time
from copy import copy
from dataclasses import dataclass
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, fast_trace_task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.serialization import get_pickleable_etype, get_pickleable_exception

from celeray.actors.channel import PICKLE_PROTOCOL
from celeray.actors.soft_limit import SoftTimeLimit
from celeray.scheduler.gpu_memory import PlaceAgainError
from celeray.scheduler.gpu_memory import may_place_again as running_may_place_again


@dataclass(frozen=True, slots=True)
class Left:
    """The task ended its process: SystemExit or KeyboardInterrupt."""

    detail: str
    """As Celery words a lost worker."""


@dataclass(frozen=True, slots=True)
class RanOut:
    """GPU memory ran out in a run that may be placed again: nothing of it was stored or sent."""

    detail: str


def run_task(
    app: Celery,
    arguments: tuple[Any, ...],
    limit: SoftTimeLimit,
    limit_s: float | None,
    *,
    may_place_again: bool = False,
) -> bytes | Left | RanOut:
    """Trace one task in the calling thread, the main one, and return its pickled outcome.

    Args:
        app: the loaded app; its worker optimisations are set up.
        arguments: those of `celery.app.trace.fast_trace_task`.
        limit: raises the soft time limit inside the task.
        limit_s: seconds, None for no limit.
        may_place_again: out of GPU memory is no end of the task.
    """
    begin = time.monotonic()
    token = running_may_place_again.set(may_place_again)
    try:
        with limit.armed(app.tasks.get(arguments[0]), limit_s):
            outcome = fast_trace_task(*arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        return Left(_describe_exit(error))
    except PlaceAgainError as error:
        return RanOut(str(error))
    except (Reject, Ignore, Retry):
        # Verdicts for Celery's request, not failures.
        outcome = (1, ExceptionInfo(), time.monotonic() - begin)
    except BaseException as error:  # noqa: BLE001 - a task may raise anything, and the executor must live
        outcome = (1, _store_failure(app, arguments, error), time.monotonic() - begin)
    finally:
        running_may_place_again.reset(token)
    return pickle_outcome(*outcome)


def pickle_outcome(failed: int, retval: Any, runtime: float | None) -> bytes:
    """Pickle what the trace function returned, replacing what can't be read back by something that says so."""
    try:
        payload = pickle.dumps((failed, retval, runtime), PICKLE_PROTOCOL)
        if failed:
            # A class without its constructor's arguments, say, pickles and then can't be read.
            pickle.loads(payload)  # noqa: S301 - pickled one line above
    except Exception:  # noqa: BLE001 - pickling runs the value's own code
        return pickle.dumps((failed, _portable(retval), runtime), PICKLE_PROTOCOL)
    return payload


def _portable(retval: Any) -> Any:
    """The same failure with an exception that can be pickled; its traceback's text is kept."""
    if not isinstance(retval, ExceptionInfo):
        return repr(retval)
    original = getattr(retval.exception, "exc", retval.exception)
    portable = get_pickleable_exception(original)
    info = copy(retval)
    info.type = get_pickleable_etype(type(portable))
    info.exception = ExceptionWithTraceback(portable, retval.traceback)
    return info


def _store_failure(app: Celery, arguments: tuple[Any, ...], error: BaseException) -> ExceptionInfo:
    """Store an exception that escaped the trace function as the task's failure. Called in its except block."""
    name, task_id, request, *_ = arguments
    context = Context({"args": (), "kwargs": {}} | request, id=task_id, called_directly=False)
    if (task := app.tasks.get(name)) is not None:
        return TraceInfo(states.FAILURE, error).handle_error_state(task, context)
    info = ExceptionInfo()
    app.backend.mark_as_failure(task_id, get_pickleable_exception(error), info.traceback, request=context)
    return info


def _describe_exit(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return f"Worker exited prematurely: exitcode {code} (SystemExit raised by the task)."
    return f"Worker exited prematurely: {type(error).__name__} raised by the task."
