"""A run's message side on Celery: the callbacks of the worker's `Request` (celery/worker/request.py).

Celery's promises are kept by Celery's own code: this only calls it at the right time. `on_success` and `on_failure`
acknowledge, reject, send events, mark results; `on_timeout` does it for time limits; `revoked` for what is not wanted.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from celery.worker import state as worker_state

from celeray.scheduler.bridge.run import RunPort
from celeray.scheduler.endings.classifying import outcome_of_failure, outcome_of_lost_executor
from celeray.scheduler.fencing import LeaseLostError
from celeray.scheduler.lost_leases import give_up
from celeray.scheduler.moving import give_back, give_back_all, put_back
from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.preempted import PutBack
from celeray.scheduler.status import TaskState
from celeray.scheduler.transport.qos import QoS as LeasedQoS

logger = logging.getLogger(__name__)


class CeleryPort:
    """Implements `RunPort` for one `celery.worker.request.Request`."""

    __slots__ = ("_accept", "_args", "_callback", "_error_callback", "_request", "_timeout", "ran_out")

    def __init__(
        self,
        request: Any,
        args: tuple[Any, ...],
        *,
        accept_callback: Callable[[int, float], None],
        callback: Callable[[Any], None],
        error_callback: Callable[[Any], None],
        timeout_callback: Callable[[bool, float], None],
    ) -> None:
        """
        Args:
            args: what the trace function takes: task name, task id, request dict, body, content type and encoding.
        """
        self._request = request
        self._args = args
        self._accept = accept_callback
        self._callback = callback
        self._error_callback = error_callback
        self._timeout = timeout_callback
        self.ran_out = False

    def wanted(self) -> bool:
        # Celery checked when it handed the message over; it may have waited for hours since.
        return not self._request.revoked()

    def payload(self) -> bytes:
        name, task_id, request, body, content_type, content_encoding = self._args
        if content_type:
            # The trace function decodes the body itself, so the decoded copy need not travel.
            request = {key: value for key, value in request.items() if key not in ("args", "kwargs")}
            body = bytes(body) if isinstance(body, memoryview | bytearray) else body
        return pickle.dumps((name, task_id, request, body, content_type, content_encoding), protocol=5)

    def begun(self, key: int, at: float) -> None:
        self._accept(key, at)

    def not_begun(self) -> None:
        # What Request.on_accepted does, taken back; it is called again when the run begins.
        request = self._request
        worker_state.active_requests.discard(request)
        request.time_start = request.worker_pid = None
        worker_state.total_count[request.name] -= 1
        worker_state.all_total_count[0] -= 1
        qos = getattr(request.message.channel, "qos", None)
        if isinstance(qos, LeasedQoS):
            qos.begun_in_vain(request.message.delivery_tag)

    def came_back(self, payload: bytes) -> TaskState:
        try:
            failed, retval, runtime = pickle.loads(payload)  # noqa: S301 - written by our executor, sent by Ray
        except Exception as error:
            logger.exception("the outcome of %s can't be read", self._request.id)
            return self._fail(error)
        # A retry that the task asked for names its reason, too, and is no failure.
        is_failure = bool(failed) and _state(retval) is TaskState.FAILED
        self.ran_out = is_failure and outcome_of_failure(_error(retval)) is Outcome.GPU_MEMORY
        try:
            self._callback((failed, retval, runtime))
        except (SystemExit, KeyboardInterrupt) as error:
            # The task ended its process; so says on_success, which raises it in the worker's own process.
            return self._fail(WorkerLostError(f"the task raised {error!r}"))
        except Exception:
            # on_failure raises MemoryError again, and receivers of signals may raise anything. A message that is
            # neither acknowledged nor rejected would take a place of the window for ever.
            logger.exception("Celery's callback for %s failed", self._request.id)
            self._settle(retval if failed else None)
        return _state(retval) if failed else TaskState.SUCCEEDED

    def _settle(self, einfo: Any) -> None:
        """What is left of `Request.on_failure` once the outcome is stored: off the books, acknowledged, told."""
        request = self._request
        worker_state.task_ready(request)
        if not request.acknowledged:
            if request.task.acks_on_failure:
                request.acknowledge()
            else:
                request.reject(requeue=False)
        if einfo is not None:
            request.send_event("task-failed", exception=repr(_error(einfo)), traceback=einfo.traceback)

    def lost(self, detail: str) -> TaskState:
        self._request.celeray_lost_as = outcome_of_lost_executor(detail)
        self._fail(WorkerLostError(detail))
        return TaskState.LOST

    def refused(self, error: Exception) -> None:
        self._fail(error)

    def soft_limit(self, seconds: float) -> None:
        self._timeout(True, seconds)

    def hard_limit(self, seconds: float) -> None:
        self._timeout(False, seconds)

    def lease_lost(self) -> None:
        give_up(self._request)

    def give_back(self) -> None:
        give_back(self._request)

    def put_back(self, mark: PutBack) -> None:
        put_back(self._request, mark)

    def give_back_with(self, others: Sequence[RunPort]) -> None:
        ports = [self, *(port for port in others if isinstance(port, CeleryPort))]
        give_back_all([port._request for port in ports])

    def superseded(self) -> None:
        worker_state.task_ready(self._request)

    def _fail(self, error: Exception) -> TaskState:
        try:
            raise error
        except Exception:  # noqa: BLE001 - raised in the line above, for its traceback
            einfo = ExceptionInfo()
        try:
            self._error_callback(einfo)
        except Exception:
            logger.exception("Celery's error callback for %s failed", self._request.id)
            self._settle(einfo)
        return TaskState.FAILED


def _error(einfo: Any) -> BaseException:
    error = einfo.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _state(einfo: Any) -> TaskState:
    match _error(einfo):
        case LeaseLostError():
            return TaskState.LOST
        case Retry():
            return TaskState.RETRIED
        case Reject():
            return TaskState.REJECTED
        case Ignore():
            return TaskState.SUCCEEDED
        case _:
            return TaskState.FAILED
