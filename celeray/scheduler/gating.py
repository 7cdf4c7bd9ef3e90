"""The gate between a task's body and what follows from it: callbacks, the chain's next step, errbacks, chord parts.

Celery's tracer publishes callbacks before it stores the result, so a run that lost its lease must be stopped right
after its body. The gate wraps `task.run`, as Celery's own autoretry does, and so stands inside of a `__call__` of the
user's. It asks the result backend once, and only where something follows from the run; a state or a result is
compared when it is written.

A run of a message that another run has completed gets that run's outcome in place of its own, so that what the other
one may not have got to, such as its chord part, is made up for and nothing contradicts what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from celery import bootsteps, states
from celery.exceptions import Ignore, Reject, Retry

from celeray.scheduler.failing import after_exception
from celeray.scheduler.fencing import LeaseLostError, Verdict, fence_of, is_repeat, was_sent_again
from celeray.scheduler.gpu_memory import keep_from_autoretry
from celeray.scheduler.letters.chords import reopen_chords
from celeray.scheduler.letters.tags import is_redriven
from celeray.scheduler.once import FollowUpProducer, failure_messages, scope_of, success_messages
from celeray.scheduler.transport.publishing_scope import publishing_scope

logger = logging.getLogger(__name__)


def gate_tasks(app: Any) -> None:
    """Put the gate into every task of a finalized app. Again changes nothing."""
    for task in list(app._tasks.values()):
        gate(task)


def gate_tasks_of(sender: Any, **_: Any) -> None:
    """Receiver of `app.on_after_finalize`: also in a worker's child that imports the app anew."""
    gate_tasks(sender)


class GateTasks(bootsteps.Step):
    """Worker step: also the tasks that were declared after the app was finalized. Before the pool forks."""

    def create(self, parent: Any) -> None:
        gate_tasks(parent.app)


def gate(task: Any) -> None:
    """Put the gate into one task. Again changes nothing."""
    keep_from_autoretry(task)
    run: Callable[..., Any] = task.run
    if getattr(run, "celeray_gate", False):
        return

    @wraps(run)
    def gated(*args: Any, **kwargs: Any) -> Any:
        request = task.request_stack.top
        # A task that calls its own `run` is gated once, around all of it.
        if (
            request is None
            or request.called_directly
            or request.is_eager
            or getattr(request, "celeray_gated", False)
        ):
            return run(*args, **kwargs)
        request.celeray_gated = True

        def body() -> Any:
            if is_redriven(request):
                reopen_chords(task, request)
            try:
                return run(*args, **kwargs)
            except (Reject, Ignore, Retry):
                raise
            except Exception as error:
                after_exception(task, request, error)
                raise

        return body() if fence_of(request) is None else _run(task, request, body)

    gated.celeray_gate = True  # type: ignore[attr-defined]
    task.run = gated


def _run(task: Any, request: Any, body: Callable[[], Any]) -> Any:
    # Registering costs a call, so a first run is known by its first write; with STARTED on, that comes first of all.
    if (is_repeat(request) or was_sent_again(request)) and _verdict(task, request) is Verdict.DONE:
        return _stored_outcome(task, request)
    try:
        value = body()
    except (Reject, Ignore, Retry) as verdict:
        # `Task.retry` wraps what refused to publish its message, and would have the message dropped.
        reason = getattr(verdict, "reason", None)
        if isinstance(reason, LeaseLostError | Ignore):
            raise reason from None
        raise
    except Exception:
        if (request.errbacks or request.chain or request.chord) and _verdict(task, request) is Verdict.DONE:
            return _stored_outcome(task, request)
        request.celeray_once = failure_messages(request)
        raise
    if (request.callbacks or request.chain or request.chord) and _verdict(task, request) is Verdict.DONE:
        return _stored_outcome(task, request)
    request.celeray_once = success_messages(request)
    return value


def _verdict(task: Any, request: Any) -> Verdict:
    """GO or DONE.

    Raises:
        LeaseLostError: another run of the message began later.
    """
    check = getattr(task.backend, "check_fence", None)
    verdict: Verdict = check(request) if check else Verdict.GO
    if verdict is Verdict.LOST:
        raise LeaseLostError("its lease is lost, so nothing follows from this run")
    return verdict


def _stored_outcome(task: Any, request: Any) -> Any:
    """What the run that completed the message left.

    Raises:
        Exception: the stored failure.
        Ignore: it was retried or revoked, or its result has expired: nothing is left to do.
    """
    meta = task.backend._get_task_meta_for(request.id)
    status, result = meta["status"], meta["result"]
    logger.info("task %s[%s] was completed by another run: %s", task.name, request.id, status)
    if status == states.SUCCESS:
        request.celeray_once = success_messages(request)
        return result
    if status == states.FAILURE and isinstance(result, Exception):
        request.celeray_once = failure_messages(request)
        raise result
    raise Ignore(f"task {request.id} was completed by another run: {status}")


@contextmanager
def publishing(app: Any, producer: Any, headers: Mapping[str, Any]) -> Iterator[Any]:
    """Around the sending of a message: what follows from a fenced run is published once.

    Args:
        headers: of the message; task id and all are missing in protocol 1, which has no callbacks to guard.

    Yields:
        The producer to send with.

    Raises:
        LeaseLostError: the running task retries or replaces itself, and its lease is lost.
        Ignore: as above, and another run has dealt with its message already.
    """
    task = app.current_worker_task
    request = task.request_stack.top if task else None
    scope = _scope(task, request, headers)
    if scope is None:
        yield producer
        return
    token = publishing_scope.set(scope)
    try:
        yield FollowUpProducer(producer)
    finally:
        publishing_scope.reset(token)


def _scope(task: Any, request: Any, headers: Mapping[str, Any]) -> str | None:
    """Within which this message is published once; None: as often as it is sent."""
    task_id = headers.get("id")
    if (scope := scope_of(task_id, request)) is not None:
        return scope
    fence = fence_of(request) if request is not None and task_id == request.id else None
    if fence is None:
        return None
    if _verdict(task, request) is Verdict.DONE:
        raise Ignore(f"task {task_id} was completed by another run")
    return f"{fence.message}:{headers.get('retries') or 0}:{headers.get('replaced_task_nesting') or 0}"
