"""Publishing one message under terms that Celery's own way of publishing can't keep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celeray.scheduler.errors import DuplicateTaskError
from celeray.scheduler.settings import Settings
from celeray.scheduler.submission.packing import Packed, caught
from celeray.scheduler.submission.terms import Terms
from celeray.scheduler.submission.writing import Item, Submission, write
from celeray.scheduler.transport.publishing_scope import PUBLISHED_TTL_S, publishing_scope

logger = logging.getLogger(__name__)


_WORKFLOW = ("group_id", "chord", "link", "link_error")
"""Options of `apply_async`."""


class TermsProducer:
    """Stands before a kombu producer while Celery's task sender publishes one message and its event."""

    def __init__(self, producer: Any, terms: Terms, settings: Settings) -> None:
        self._producer = producer
        self._terms = terms
        self._settings = settings
        self._published = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, *args: Any, **options: Any) -> Any:
        """As kombu's.

        Raises:
            DuplicateTaskError: another submission has the key; nothing was written.
            NotReplicatedError: see there.
        """
        if self._published:
            return self._producer.publish(*args, **options)
        with caught(self._producer, self._write):
            found = self._producer.publish(*args, **options)
        self._published = True
        return found

    def _write(self, channel: Any, packed: Packed) -> None:
        terms = self._terms
        [first] = write(channel, [Item(packed, terms)], self._submission(), self._settings)
        if first != terms.task_id:
            raise DuplicateTaskError(terms.task, terms.task_id, first)

    def _submission(self) -> Submission:
        terms, scope = self._terms, publishing_scope.get()
        if scope is not None:
            # What follows from a run is known by that, also when the whole run is repeated.
            return Submission(lambda keys: keys.once(scope, terms.task_id), PUBLISHED_TTL_S)
        return Submission(lambda keys: keys.published(terms.token), self._settings.publish_memory_s)


def send_once(app: Any, send: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
    """`Celery.send_task`, but a duplicate returns the first submission's result.

    Raises:
        DuplicateTaskError: somebody waits for this very task id: a chain, a group, a chord, or a callback.
    """
    try:
        return send(name, *args, **options)
    except DuplicateTaskError as found:
        if found.linked or _awaited(app, options):
            found.linked = True
            raise
        logger.info("%s is a duplicate of %s", found.task, found.first_id)
        return _result(app, found.first_id, options)


def _awaited(app: Any, options: Mapping[str, Any]) -> bool:
    """Whether the task's own id is known to someone else than the caller."""
    if options.get("chain") is not None or any(options.get(key) for key in _WORKFLOW):
        return True
    task_id, running = options.get("task_id"), app.current_worker_task
    if not task_id or running is None:
        return False
    # The body of a chord comes with the id that its result already has; a callback with one that nobody knows.
    follows = getattr(running.request, "celeray_once", None)
    return follows is None or task_id not in follows.task_ids


def _result(app: Any, task_id: str, options: Mapping[str, Any]) -> Any:
    result = (options.get("result_cls") or app.AsyncResult)(task_id)
    result.ignored = options.get("ignore_result")
    if options.get("add_to_parent", True) and (parent := app.current_worker_task):
        parent.add_trail(result)
    return result
