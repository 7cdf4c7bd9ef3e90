"""States and results of a batch of short tasks, stored through one pipeline.

A stored result costs an executor more than a no-op itself, since each write is a round trip. While a batch is open on
a backend, what its tasks store waits in memory until the batch ends, and at most `HOLD_S`. Only the last state of a
task is written then, by the same commands in the same order as without a batch: set and published, under its fence.

What others rely on at once is never held: chord parts, tasks with callbacks, errbacks or a chain, failures, retries,
states of the task's own, and large results. They go Celery's way, and what was held of that task is dropped before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from celery import states

from celeray.scheduler.fencing import Verdict, as_verdict, fence_script

HOLD_S = 0.05
"""A task that takes longer than it was predicted does not keep the results before it, nor its own STARTED."""
LARGE_BYTES = 64 * 1024
HELD_STATES = frozenset({states.STARTED, states.SUCCESS})


@dataclass(slots=True)
class _Held:
    """One state that waits."""

    task_id: str
    result: Any
    state: str
    request: Any
    payload: Any
    """Encoded. None: not yet, since what is begun has mostly ended before it is written."""
    ttl_s: int
    """0: for ever."""


class ResultBatch:
    """What one batch has still to store. Tasks add in one thread; another one flushes what is held for too long."""

    def __init__(self, backend: Any, on_flushed: Callable[[], None]) -> None:
        """
        Args:
            on_flushed: called, under `lock`, each time when everything that was held has been stored.
        """
        self.lock = threading.RLock()
        self.failed: dict[str, Exception] = {}
        """By task id, what the backend said in place of storing its state."""
        self._flushes_in: int | None = None
        """The thread that writes just now."""
        self._backend = backend
        self._on_flushed = on_flushed
        self._held: dict[Any, _Held] = {}
        self._changed = threading.Condition(self.lock)
        self._closed = False
        self._flusher: threading.Thread | None = None

    @property
    def is_writing(self) -> bool:
        """Whether the caller is called by a flush: what it stores is not held."""
        return self._flushes_in == threading.get_ident()

    @property
    def holds(self) -> bool:
        """Whether anything waits."""
        return bool(self._held)

    def add(self, key: Any, held: _Held) -> None:
        """Hold a state; an earlier one of the same task is never written."""
        with self.lock:
            first = not self._held
            self._held[key] = held
            if first:
                self._changed.notify()
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._run, name="celeray-results", daemon=True)
                self._flusher.start()

    def drop(self, key: Any) -> None:
        """Forget what is held of a task; waits for a flush that is under way."""
        with self.lock:
            self._held.pop(key, None)

    def flush(self) -> None:
        """Store all that is held. Tries on as long as Celery does; what the backend refuses is in `failed`."""
        with self.lock:
            held, self._held = self._held, {}
            if held:
                self._flushes_in = threading.get_ident()
                try:
                    self._backend.ensure(self._write, (held,))
                except Exception as error:  # noqa: BLE001 - whatever the client raises, the tasks of the batch fail with it
                    self.failed.update({entry.task_id: error for entry in held.values()})
                finally:
                    self._flushes_in = None
            if not self.failed:
                self._on_flushed()

    def close(self) -> None:
        """Store all that is held, and hold nothing any more."""
        self.flush()
        with self.lock:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self.lock:
            while not self._closed:
                self._changed.wait_for(lambda: self._held or self._closed)
                # Of a batch within its time nothing is left then.
                self._changed.wait_for(lambda: self._closed, HOLD_S)
                if self._held and not self._closed:
                    self.flush()

    def _write(self, held: dict[Any, _Held]) -> None:
        backend = self._backend
        records = {key: backend.fence_record(entry.request) for key, entry in held.items()}
        plain = [key for key, record in records.items() if record is None]
        if plain:
            # Celery's own guard: a success is not overwritten.
            for key, stored in zip(plain, backend.client.mget(plain), strict=True):
                if stored is not None and backend.decode_result(stored)["status"] == states.SUCCESS:
                    del held[key]
        with backend.client.pipeline(transaction=False) as pipe:
            for key, entry in held.items():
                if entry.payload is None:
                    entry.payload = backend.payload_of(
                        entry.task_id, entry.result, entry.state, entry.request
                    )
                _queue(pipe, key, entry, records[key])
            replies = iter(pipe.execute(raise_on_error=False))
        for key, entry in held.items():
            self._read(entry, [next(replies) for _ in range(1 if records[key] else 2)])

    def _read(self, entry: _Held, replies: list[Any]) -> None:
        error = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if error is None and len(replies) == 2:
            return
        verdict = None if error else as_verdict(replies[0])
        if verdict in (Verdict.STORED, Verdict.KEPT):
            return
        # The script is not loaded, or asks for a second look, or the run has lost its lease: one by one.
        try:
            self._backend._store_result(entry.task_id, entry.result, entry.state, request=entry.request)
        except Exception as refusal:  # noqa: BLE001 - it fails this task alone
            self.failed[entry.task_id] = refusal


def _queue(pipe: Any, key: Any, entry: _Held, record: Any) -> None:
    if record is not None:
        args = record.store_arguments(
            entry.state,
            entry.payload,
            completes=entry.state == states.SUCCESS,
            over_unknown=False,
            result_ttl_s=entry.ttl_s,
        )
        pipe.evalsha(fence_script("fence_store").digest, 2, record.key, key, *args)
        return
    if entry.ttl_s:
        pipe.setex(key, entry.ttl_s, entry.payload)
    else:
        pipe.set(key, entry.payload)
    pipe.publish(key, entry.payload)


class BatchingMixin:
    """Goes before a Celery Redis backend and its fences, and after what decides how long a result is kept."""

    open_batch: ResultBatch | None = None

    @contextmanager
    def batch(self, on_flushed: Callable[[], None]) -> Iterator[ResultBatch]:
        """Hold within the block what the tasks of this thread store; after it everything is stored, or in `failed`."""
        self.open_batch = batch = ResultBatch(self, on_flushed)
        try:
            yield batch
        finally:
            self.open_batch = None
            batch.close()

    def payload_of(self, task_id: str, result: Any, state: str, request: Any) -> Any:
        """What is stored for a state, encoded as Celery does."""
        backend: Any = self
        meta = backend._get_result_meta(result=result, state=state, traceback=None, request=request)
        return backend.encode(meta | {"task_id": task_id})

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        batch, backend, at_once = self.open_batch, cast(Any, self), cast(Any, super())
        if batch is None or batch.is_writing:
            return at_once._store_result(task_id, result, state, traceback, request=request, **kwargs)
        key = backend.get_key_for_task(task_id)
        if _may_be_held(task_id, state, request):
            begins = state == states.STARTED
            payload = None if begins else self.payload_of(task_id, result, state, request)
            if payload is None or len(payload) <= LARGE_BYTES:
                batch.add(key, _Held(task_id, result, state, request, payload, int(backend.expires or 0)))
                return result
        batch.drop(key)
        return at_once._store_result(task_id, result, state, traceback, request=request, **kwargs)


def _may_be_held(task_id: str, state: str, request: Any) -> bool:
    if state not in HELD_STATES or request is None or request.id != task_id:
        return False
    return not (request.chord or request.callbacks or request.errbacks or request.chain)
