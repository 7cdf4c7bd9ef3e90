"""`celeray.submit_batch`: many tasks in one write, all of them or none."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import proxy

import redis
from celery import current_app, signals
from celery.backends.base import DisabledBackend
from celery.canvas import Signature, _chain, _chord, group
from celery.result import EagerResult, GroupResult
from kombu.exceptions import EncodeError, OperationalError
from vine import barrier, promise

from celeray.scheduler.errors import (
    BatchRefusedError,
    CelerayError,
    DuplicateTaskError,
    SubmissionUnsupportedError,
)
from celeray.scheduler.installed import settings_of
from celeray.scheduler.settings import Settings
from celeray.scheduler.submission.assembling import Assembler
from celeray.scheduler.submission.collecting import BatchProducer, Collected, collecting
from celeray.scheduler.submission.writing import Submission, write
from celeray.scheduler.topology import BrokerKind

logger = logging.getLogger(__name__)

EVENTS_A_MESSAGE = 200
"""Of the task-sent events of a batch; a list of events is what Celery's own buffers send."""
_REFUSALS = (CelerayError, EncodeError, TypeError, ValueError)
"""What a signature can be refused with while it is collected. The rest is no fault of a signature."""


class BatchResult(GroupResult):
    """The results in the order of the signatures. A duplicate's is that of the first submission.

    Celery subscribes to each result when a group is made, which takes longer than all the rest of a batch. Here that
    is done when somebody waits; what is ready by then is read first, as always.
    """

    def __init__(self, id: Any = None, results: Any = None, parent: Any = None, **options: Any) -> None:  # noqa: A002
        self._watched = False
        # Celery would make a barrier of all the results, which subscribes to them.
        super().__init__(id, results, parent, **{"ready_barrier": object(), **options})

    def _set_ready_barrier(self, ready_barrier: Any) -> None:
        self.on_ready, self._on_full = promise(args=(proxy(self),)), None

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            super()._set_ready_barrier(barrier(self.results))

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        self._watch()
        return super().then(callback, on_error, weak)

    def iter_native(self, *args: Any, **options: Any) -> Any:
        self._watch()
        return super().iter_native(*args, **options)

    @property
    def supports_native_join(self) -> bool:
        # Celery's native join keeps one place an id (`join_native` in celery/result.py), and duplicates share one.
        ids = [result.id for result in self.results]
        return bool(GroupResult.supports_native_join.fget(self)) and len(set(ids)) == len(ids)


def submit_batch(
    signatures: Iterable[Any], app: Any = None, *, batch_id: str | None = None, retry: bool | None = None
) -> GroupResult:
    """Submit signatures of tasks and chains, of any queues, in one atomic write.

    Everything is checked before anything is written. A signature that is deduplicated counts as submitted when
    its first submission was, in this batch or before: its result is that one's. A repetition under the same
    `batch_id`, within `publish_memory_s`, writes nothing again and returns the same results.

    Args:
        signatures: of tasks, or chains that begin with a task. Not changed.
        app: the Celery app, with celeray installed. None: that of the first signature.
        batch_id: id of the group, and what the tasks' ids are made from. None: a new one.
        retry: publish again after a lost connection, by the app's `task_publish_retry_policy`. None: as the app's
            `task_publish_retry` says.

    Returns:
        The group's result, saved as `GroupResult.save` does where the result backend can.

    Raises:
        BatchRefusedError: a signature can't be submitted, which it names by its index; or there are too many, or of
            too many bytes. Nothing was written.
        SubmissionUnsupportedError: the broker is no Redis.
        NotReplicatedError: written, and not on as many replicas as asked.
        kombu.exceptions.OperationalError: Redis did not answer; all is written or nothing.
        ConfigurationError: celeray is not installed on the app.
    """
    wanted = list(signatures)
    app = app or _app_of(wanted)
    settings = settings_of(app)
    group_id = batch_id or str(uuid.uuid4())
    if app.amqp.broker_kind is not BrokerKind.REDIS:
        bound = f"a Redis broker; this one is {app.amqp.broker_kind}"
        raise SubmissionUnsupportedError("submit_batch", len(wanted), bound)
    if len(wanted) > settings.batch_max_messages:
        raise BatchRefusedError(
            None, f"{len(wanted)} signatures: at most batch_max_messages={settings.batch_max_messages}"
        )
    with app.producer_or_acquire() as producer:
        batch = BatchProducer(producer, app.amqp, group_id)
        assembler = Assembler(app, batch)
        results = [
            _collect(batch, assembler, index, signature, group_id, named=batch_id is not None)
            for index, signature in enumerate(wanted)
        ]
        if batch.collected:
            firsts = _write(producer, batch.collected, group_id, settings, _policy(app, retry))
            results = [
                result if first == one.item.terms.task_id else app.AsyncResult(first)
                for result, one, first in zip(results, batch.collected, firsts, strict=True)
            ]
            _tell(app, producer, batch.collected, firsts)
    return _result(app, group_id, results)


def _app_of(signatures: Sequence[Any]) -> Any:
    app = getattr(signatures[0], "app", None) if signatures else None
    return app or current_app._get_current_object()


def _collect(
    batch: BatchProducer, assembler: Assembler, index: int, signature: Any, group_id: str, *, named: bool
) -> Any:
    before = len(batch.collected)
    if reason := _unfit(signature):
        raise BatchRefusedError(index, reason)
    task_id = signature.options.get("task_id") or _new_id(group_id if named else None, index)
    options = {"producer": batch, "add_to_parent": False, "group_id": group_id, "group_index": index}
    try:
        if assembler.takes(signature):
            result = assembler.assemble(signature, task_id, group_id, index)
        else:
            with collecting(batch):
                result = signature.apply_async(task_id=task_id, **options)
    except _REFUSALS as error:
        raise BatchRefusedError(index, f"{_name(signature)}: {error}") from error
    made = len(batch.collected) - before
    if made != 1 and not isinstance(result, EagerResult):
        raise BatchRefusedError(index, f"{_name(signature)} is {made} messages, not one")
    return result


def _new_id(batch_id: str | None, index: int) -> str:
    """Of a named batch the same each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{batch_id}/{index}")) if batch_id else str(uuid.uuid4())


def _unfit(signature: Any) -> str | None:
    """Why a signature has no place in a batch."""
    if not isinstance(signature, Signature):
        return f"{type(signature).__name__} is no signature; use task.s(...)"
    first = signature
    while isinstance(first, _chain) and first.tasks:
        first = first.tasks[0]
    if isinstance(first, group | _chord | _chain):
        return f"{_name(signature)}: a group, a chord or an empty chain is more or less than one message"
    return None


def _name(signature: Any) -> str:
    return str(getattr(signature, "task", None) or signature)


def _policy(app: Any, retry: bool | None) -> dict[str, Any] | None:
    """For `Connection.ensure`; None: no second try."""
    wanted = app.conf.task_publish_retry if retry is None else retry
    return dict(app.conf.task_publish_retry_policy or {}) if wanted else None


def _write(
    producer: Any,
    collected: Sequence[Collected],
    group_id: str,
    settings: Settings,
    policy: dict[str, Any] | None,
) -> list[str]:
    _check(collected, settings)
    items = [one.item for one in collected]
    submission = Submission(lambda keys: keys.published(group_id), settings.publish_memory_s)

    def attempt() -> list[str]:
        return write(producer.channel, items, submission, settings)

    connection = producer.connection
    try:
        if policy is not None:
            attempt = connection.ensure(producer, attempt, **policy)
        with connection._reraise_as_library_errors():
            return attempt()
    except DuplicateTaskError as error:
        index = next(n for n, item in enumerate(items) if item.terms.task_id == error.task_id)
        raise BatchRefusedError(index, str(error)) from error


def _check(collected: Sequence[Collected], settings: Settings) -> None:
    ids: dict[str, int] = {}
    size = 0
    for index, one in enumerate(collected):
        size += len(one.item.packed.payload)
        if size > settings.batch_max_bytes:
            raise BatchRefusedError(
                index, f"the batch is larger than batch_max_bytes={settings.batch_max_bytes} from here on"
            )
        task_id = one.item.terms.task_id
        if ids.setdefault(task_id, index) != index:
            raise BatchRefusedError(index, f"the same task id as signature {ids[task_id]}: {task_id}")


def _tell(app: Any, producer: Any, collected: Sequence[Collected], firsts: Sequence[str]) -> None:
    """Signals and events, of what was written."""
    written = [one for one, first in zip(collected, firsts, strict=True) if first == one.item.terms.task_id]
    for one in written:
        signals.after_task_publish.send(**one.after)
    dispatcher = app.amqp._event_dispatcher
    events = [
        dispatcher._prepare_event("task-sent", one.sent_event)
        for one in written
        if one.sent_event is not None
    ]
    for start in range(0, len(events), EVENTS_A_MESSAGE):
        try:
            dispatcher._publish(events[start : start + EVENTS_A_MESSAGE], producer, "task.multi")
        except (OSError, redis.RedisError, OperationalError) as error:
            logger.warning("%d task-sent events were not sent: %r", len(events) - start, error)
            return


def _result(app: Any, group_id: str, results: list[Any]) -> GroupResult:
    found = BatchResult(group_id, results, app=app)
    backend = app.backend
    if results and not isinstance(backend, DisabledBackend):
        try:
            found.save()
        except NotImplementedError:
            logger.debug("%s keeps no groups", type(backend).__name__)
        except Exception:
            # The tasks are submitted, and the caller has the result.
            logger.exception("the group %s of a batch could not be saved", group_id)
    if (parent := app.current_worker_task) is not None:
        parent.add_trail(found)
    return found
