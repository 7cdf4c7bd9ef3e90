"""The request of a worker (celery/worker/request.py) whose failures end by a verdict. Plain workers and the bridge.

Celery's own code goes on doing all that it does: results, errbacks, events, signals. This stands around its callbacks
and says what its acknowledgement leaves of the message. Only where a policy retries a run whose process is gone is
there no code of Celery's that stores RETRY, so that is done here.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.saferepr import saferepr
from celery.worker import state

from celeray.scheduler.endings.classifying import KILLED, error_of, names_of, outcome_of_failure
from celeray.scheduler.endings.describing import attempt_of
from celeray.scheduler.failing import RETRIED, PolicyRetry
from celeray.scheduler.letters.attempts import Attempts, attempts_of
from celeray.scheduler.outcomes import (
    Ack,
    GiveBack,
    History,
    Outcome,
    Park,
    RetryAt,
    Verdict,
    reason_of,
    settle,
)
from celeray.scheduler.parked import ParkReason

if TYPE_CHECKING:
    from celeray.scheduler.endings.writing import Writer

logger = logging.getLogger(__name__)

LOST = frozenset({Outcome.WORKER_LOST, Outcome.EXECUTOR_LOST, Outcome.NODE_LOST, Outcome.HOST_MEMORY})
_EXITS = (SystemExit, KeyboardInterrupt)


class SettledRequest:
    """Goes before the class of a task's requests. Every method is called in the consumer's thread, or the pool's."""

    celeray_writer: Writer
    """Of the worker; set on the class."""
    celeray_lost_as: Outcome | None = None
    """Which loss it is, where the pool knows better than the exception tells."""
    _ending: tuple[Verdict, Attempts, str] | None = None
    """What the acknowledgement or rejection to come leaves of the message; the text is the detail."""
    _decided = False
    _retried_here = False

    # What Celery's class has
    id: str
    name: str
    task: Any
    message: Any
    acknowledged: bool
    _already_revoked: bool
    _already_cancelled: bool
    store_errors: bool
    args: Any
    kwargs: Any
    _context: Any

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's. What comes after its hard time limit was retried says nothing new."""
        if self._retried_here:
            return None
        error = error_of(exc_info)
        outcome = None if self._is_settled else self._outcome(error)
        if outcome is not None and self._decide(outcome, error, exc_info, stored=return_ok):
            return None
        base: Any = super()
        try:
            return base.on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        except MemoryError:
            if not isinstance(error, MemoryError):
                raise
            # Celery ends the worker with this. The task's failure is stored, so only the message is left.
            logger.error("task %s[%s] ran out of host memory", self.name, self.id)
            self._acknowledge_failure(exc_info)
        finally:
            self._write_unacknowledged()

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """As Celery's; of a hard limit that a policy retries no failure is stored."""
        base: Any = super()
        if soft or state.should_terminate:
            return base.on_timeout(soft, timeout)
        # A prefork pool has called `on_failure` before.
        if self._retried_here:
            return None
        if not self._decided and not self._is_settled and self._decide_time_limit(timeout):
            return None
        try:
            return base.on_timeout(soft, timeout)
        finally:
            self._write_unacknowledged()

    @property
    def _is_settled(self) -> bool:
        """Its end was told before: by a revoke, a lost connection, a lost lease."""
        return bool(
            self._already_revoked or self._already_cancelled or (self.acknowledged and self.task.acks_late)
        )

    def acknowledge(self) -> None:
        """As Celery's, with what the verdict leaves of the message."""
        base: Any = super()
        if not self.acknowledged:
            self._write()
        base.acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """As Celery's, with what the verdict leaves of the message."""
        base: Any = super()
        if not self.acknowledged:
            self._write(requeue=requeue)
        base.reject(requeue=requeue)

    # Celery's own ways out of a lost worker, which it tries first

    def _success_was_stored(self) -> Any:
        base: Any = super()
        if meta := base._success_was_stored():
            self._ending = None
        return meta

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> bool:
        base: Any = super()
        ending, self._ending = self._ending, None
        if base._retry_worker_lost(exc, exc_info):
            return True
        self._ending = ending
        return False

    # Deciding

    def _outcome(self, error: BaseException) -> Outcome | None:
        """None: Celery ends it, and nothing is left of the message."""
        match error:
            case PolicyRetry():
                return error.outcome
            case Reject():
                return Outcome.REJECT
            case Ignore() | Retry() | Terminated():
                return None
            case SystemExit() | KeyboardInterrupt() | WorkerLostError():
                return self._loss(error)
            case _:
                return outcome_of_failure(error)

    def _loss(self, error: BaseException) -> Outcome:
        if self.celeray_lost_as is not None:
            return self.celeray_lost_as
        if KILLED in str(error) and self.celeray_writer.kills.take():
            return Outcome.HOST_MEMORY
        return Outcome.WORKER_LOST

    def _decide(self, outcome: Outcome, error: BaseException, info: Any, *, stored: bool) -> bool:
        """Note what becomes of the message. True: its policy retries it, and all was done for that.

        Args:
            stored: the process that ran the task has decided and stored its state.
        """
        self._decided = True
        before = attempts_of(self.message.headers)
        verdict = self._verdict(outcome, error, before, stored=stored)
        if isinstance(verdict, Ack):
            return False
        if isinstance(verdict, GiveBack) and outcome not in LOST:
            # Requeued by the task itself, or as its app wants it: that is no failed attempt.
            return False
        attempt = attempt_of(self, outcome, error, info.traceback, time.time())
        retried = isinstance(verdict, RetryAt)
        detail = f"{attempt.exception}: {attempt.message} [{attempt.worker}]"
        self._ending = (verdict, before.plus(attempt, retried=retried), detail)
        if not retried or isinstance(error, PolicyRetry):
            return False
        if outcome in LOST and self._success_was_stored():
            return False
        self._retry(error, info)
        return True

    def _decide_time_limit(self, timeout: float) -> bool:
        try:
            raise TimeLimitExceeded(timeout)
        except TimeLimitExceeded as error:
            return self._decide(Outcome.TIME_LIMIT, error, ExceptionInfo(), stored=False)

    def _verdict(self, outcome: Outcome, error: BaseException, before: Attempts, *, stored: bool) -> Verdict:
        if isinstance(error, PolicyRetry):
            return RetryAt(error.in_s)
        task, writer = self.task, self.celeray_writer
        # A failure that is stored is final, and Celery's own retry of a lost worker goes before a policy's.
        policy = None if stored or task.retry_on_worker_lost else writer.policy_of(task.name)
        history = History(
            attempts=before.retried,
            errors=names_of(type(error)),
            requeues=self._requeues(outcome, error),
        )
        return settle(outcome, history, policy, random.random())  # noqa: S311 - no secret

    def _requeues(self, outcome: Outcome, error: BaseException) -> bool:
        task = self.task
        if isinstance(error, Reject):
            return bool(error.requeue)
        if not task.acks_late:
            return False
        if outcome is Outcome.TIME_LIMIT:
            return not task.acks_on_timeout
        lost = isinstance(error, (WorkerLostError, *_EXITS))
        return bool(lost and task.reject_on_worker_lost)

    # Doing

    def _retry(self, error: BaseException, info: Any) -> None:
        """What Celery's tracer does for a retry, for a run whose process is gone."""
        self._retried_here = True
        request: Any = self
        task, context = self.task, self._context
        state.task_ready(request)
        context.celeray_kept = True
        if self.store_errors:
            task.backend.mark_as_retry(self.id, error, info.traceback, request=context)
        if task.acks_late:
            request.acknowledge()
        self._write_unacknowledged()
        request.send_event("task-retried", exception=saferepr(error), traceback=info.traceback)
        given = error if isinstance(error, Exception) else None
        reason = PolicyRetry(f"Retry by its policy: {error!r}", given)
        logger.info("Task %s[%s] retry: %s", self.name, self.id, reason)
        task.request_stack.push(context)
        try:
            task.on_retry(error, self.id, self.args, self.kwargs, info)
            signals.task_retry.send(sender=task, request=context, reason=reason, einfo=info)
        finally:
            task.request_stack.pop()

    def _acknowledge_failure(self, info: Any) -> None:
        request: Any = self
        if not self.acknowledged:
            if self.task.acks_on_failure:
                request.acknowledge()
            else:
                request.reject(requeue=False)
        request.send_event("task-failed", exception=saferepr(error_of(info)), traceback=info.traceback)

    def _write(self, *, requeue: bool = False) -> None:
        """Once: say what the settlement that follows leaves of the message, or write it where it can't say so."""
        ending, self._ending = self._ending, None
        if ending is None:
            return
        verdict, attempts, detail = ending
        match verdict:
            case GiveBack() if requeue:
                self.celeray_writer.give_back(self.message, attempts)
            case RetryAt(in_s) if not requeue:
                self.celeray_writer.retry(self.message, _reason(attempts), attempts, detail, in_s)
            case Park(reason) if not requeue:
                self.celeray_writer.park(self.message, reason, attempts, detail)
            case _:
                # Celery settles it in another way than was decided, which counts: in a shutdown, say.
                logger.debug("task %s[%s]: %s is not carried out", self.name, self.id, verdict)

    def _write_unacknowledged(self) -> None:
        """Of a message that was acknowledged before its run there is no settlement to come."""
        if self._ending is not None and not self.task.acks_late:
            self._write()


def _reason(attempts: Attempts) -> ParkReason:
    last = attempts.last
    return ParkReason.FAILED if last is None else reason_of(Outcome(last.outcome))


class RetriedRequest(SettledRequest):
    """Of a task with a retry policy: tells the process that runs it how often the policy has retried it."""

    delivery_info: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.delivery_info[RETRIED] = attempts_of(self.message.headers).retried
