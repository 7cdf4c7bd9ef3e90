"""Result backends that compare the fence of a run before they change anything for it.

A request without a fence goes Celery's own way. One script stores, publishes and sets the time to live, or refuses;
it also saves the read that Celery makes before each write. What is refused is logged, never raised: the tracer would
take an error here for one of the task's.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any
from uuid import uuid4

from billiard.exceptions import TimeLimitExceeded
from celery import states
from celery.exceptions import BackendStoreError
from kombu.utils.encoding import bytes_to_str

from celeray.scheduler.fencing import FenceRecord, Verdict, fence_of, fence_script, is_repeat
from celeray.scheduler.keys import Keys
from celeray.scheduler.once import Once, chord_messages, failure_messages, once

logger = logging.getLogger(__name__)

COMPLETING = states.READY_STATES | {states.RETRY}
"""States after which the message has been dealt with. A retry's message is published before its state is stored."""
EPOCH = ".e"
"""Suffix of the key that tells one run of a chord from a later one with the same group id."""
TASK_KEY_PREFIX = "celery-task-meta-"


class FencingMixin:
    """Goes before a Celery Redis backend."""

    app: Any
    client: Any

    @cached_property
    def own_keys(self) -> Keys:
        """How this backend spells celeray's own keys: with the prefix of its results."""
        backend: Any = self
        return Keys(prefix=bytes_to_str(backend.task_keyprefix).removesuffix(TASK_KEY_PREFIX))

    def fence_record(self, request: Any) -> FenceRecord | None:
        """Where the fences of a request's task id are kept. None: it has no fence."""
        backend: Any = self
        return FenceRecord.of(request, self.own_keys, backend.expires) if request else None

    def check_fence(self, request: Any) -> Verdict:
        """Whether the run may go on, and from now on no earlier one of its message; GO where it has no fence.

        Raises:
            redis.RedisError: the backend did not answer, and is tried as long as for storing a result.
        """
        if (record := self.fence_record(request)) is None:
            return Verdict.GO
        script = fence_script("fence_check")
        return self._ensure_verdict(script, [record.key], record.check_arguments())

    # States and results

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        # Celery writes for other ids under a request too: those of a failed chain, and `update_state(task_id=...)`.
        record = self.fence_record(request) if getattr(request, "id", None) == task_id else None
        backend: Any = super()
        if record is None:
            return backend._store_result(task_id, result, state, traceback, request=request, **kwargs)
        meta = backend._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        payload = backend.encode(meta | {"task_id": bytes_to_str(task_id)})
        kept = getattr(request, "celeray_kept", False) or _is_requeued(self.app, request, result)
        completes = state in COMPLETING and not kept
        verdict = self._store_fenced(record, request, state, payload, completes=completes)
        if verdict is Verdict.LOST:
            request.celeray_lost = True
            logger.warning("%s of task %s is not stored: its run lost its lease", state, task_id)
        return result

    def _store_fenced(
        self, record: FenceRecord, request: Any, state: str, payload: Any, *, completes: bool
    ) -> Verdict:
        backend: Any = self
        if isinstance(payload, str) and len(payload) > backend._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend", state=state, task_id=request.id)
        ttl_s = int((backend.failure_expires if state == states.FAILURE else backend.expires) or 0)
        script, keys = fence_script("fence_store"), [record.key, backend.get_key_for_task(request.id)]

        def store(over_unknown: bool) -> Verdict:
            args = record.store_arguments(
                state, payload, completes=completes, over_unknown=over_unknown, result_ttl_s=ttl_s
            )
            return self._ensure_verdict(script, keys, args)

        # An earlier run may have been in a worker without fences, whose success must stay as well.
        if is_repeat(request):
            return Verdict.KEPT if self._succeeded(request.id) else store(True)
        verdict = store(False)
        if verdict is not Verdict.UNKNOWN:
            return verdict
        return Verdict.KEPT if self._succeeded(request.id) else store(True)

    def _succeeded(self, task_id: str) -> bool:
        backend: Any = self
        return bool(backend._get_task_meta_for(task_id)["status"] == states.SUCCESS)

    def _ensure_verdict(self, script: Any, keys: list[Any], args: list[Any]) -> Verdict:
        backend: Any = self
        verdict: Verdict = backend.ensure(script, (backend.client, keys, args))
        return verdict

    def _forget(self, task_id: str) -> None:
        backend: Any = super()
        backend._forget(task_id)
        self.client.delete(self.own_keys.fence_record(task_id))

    # What follows from an end

    def mark_as_failure(
        self, task_id: str, exc: Any, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> None:
        """As Celery's, but a run that lost its lease fails nothing: no chord, no chain, no errback."""
        backend: Any = super()
        if not request or fence_of(request) is None:
            backend.mark_as_failure(task_id, exc, traceback=traceback, request=request, **kwargs)
            return
        follows = request.chord or request.chain or request.errbacks
        if follows and self.check_fence(request) is Verdict.LOST:
            logger.warning("the failure of task %s changes nothing: its run lost its lease", task_id)
            return
        with once(failure_messages(request)):
            backend.mark_as_failure(task_id, exc, traceback=traceback, request=request, **kwargs)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """As Celery's; a frozen chord that is applied again is another one from here on."""
        backend: Any = super()
        key = backend.get_key_for_group(group_id, EPOCH)
        backend.set_chord_size(group_id, chord_size)
        backend._set_chord_key(key, uuid4().hex)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> Any:
        """As Celery's; not for a run that lost its lease, and the body's messages are published once."""
        backend: Any = super()
        fence = fence_of(request)
        if fence is None or not request.group:
            return backend.on_chord_part_return(request, state, result, **kwargs)
        if getattr(request, "celeray_lost", False):
            logger.warning("no chord part of task %s: its run lost its lease", request.id)
            return None
        claiming = backend.claiming(request.group, fence.message, repeat=is_repeat(request))
        with claiming, once(self._body_messages(request)):
            return backend.on_chord_part_return(request, state, result, **kwargs)

    def _body_messages(self, request: Any) -> Once | None:
        backend: Any = self
        epoch = backend.get(backend.get_key_for_group(request.group, EPOCH))
        if epoch is None:
            # A producer without celeray: of this member's runs only one publishes the body.
            return chord_messages(request, getattr(fence_of(request), "message", ""))
        return chord_messages(request, f"chord:{request.group}:{bytes_to_str(epoch)}")


def _is_requeued(app: Any, request: Any, error: Any) -> bool:
    """Whether Celery puts the message back though it stores a failure: a hard time limit without `acks_on_timeout`."""
    if not isinstance(error, TimeLimitExceeded):
        return False
    task = app.tasks.get(request.get("task"))
    return task is not None and task.acks_late and not task.acks_on_timeout
