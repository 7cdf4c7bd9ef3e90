"""How long one task's result is kept: `result_ttl_s` in the call's headers, else on the task, else Celery's setting."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from celeray.scheduler.errors import SubmissionError

logger = logging.getLogger(__name__)

HEADER = "result_ttl_s"
"""The message header and the task attribute."""
TTL_MAX_S = 10 * 366 * 24 * 3600

_ttl_s: ContextVar[int | None] = ContextVar("celeray_result_ttl_s", default=None)
"""Of the result that is being stored."""


def read_ttl_s(headers: Mapping[str, Any] | None, task: Any) -> int | None:
    """Seconds that the result is kept. None: neither says so.

    Raises:
        SubmissionError: not a whole number of seconds, or out of its bound.
    """
    raw = headers.get(HEADER) if headers else None
    if raw is None:
        raw = getattr(task, HEADER, None)
    if raw is None:
        return None
    if not isinstance(raw, int) or isinstance(raw, bool) or not 1 <= raw <= TTL_MAX_S:
        raise SubmissionError(HEADER, raw, f"whole seconds from 1 to {TTL_MAX_S}")
    return raw


class ResultTtlMixin:
    """Goes before a Celery Redis backend, which reads both of these wherever it stores a result."""

    app: Any

    @property
    def expires(self) -> Any:
        """Seconds that what is stored now is kept. None or 0: for ever."""
        return _ttl_s.get() or self._expires

    @expires.setter
    def expires(self, value: Any) -> None:
        self._expires = value

    @property
    def failure_expires(self) -> Any:
        """The same for failures."""
        return _ttl_s.get() or self._failure_expires

    @failure_expires.setter
    def failure_expires(self, value: Any) -> None:
        self._failure_expires = value

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        token = _ttl_s.set(self._own_ttl_s(task_id, request))
        try:
            backend: Any = super()
            return backend._store_result(task_id, result, state, traceback, request=request, **kwargs)
        finally:
            _ttl_s.reset(token)

    def _own_ttl_s(self, task_id: str, request: Any) -> int | None:
        if request is None or getattr(request, "id", None) != task_id:
            return None
        task = self.app._tasks.get(getattr(request, "task", None))
        try:
            return read_ttl_s(getattr(request, "headers", None), task)
        except SubmissionError as error:
            # Whoever can publish can send anything; the task has run, and its result is kept as others are.
            logger.warning("of task %s: %s", task_id, error)
            return None
