"""Publishing what follows from a run once, however often its message is run.

A worker may die after it has published a task's callbacks and before it has acknowledged the task's message. The
repeat then publishes them again, so their task ids are made from the message and their place in it, and the transport
publishes such an id once for a scope: the message, or the chord whose body it is.

What a task publishes by itself is its own effect, and is published as often as the task runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.fencing import SENT_AGAIN, fence_of

_NAMESPACE = uuid.UUID("6f2e7a52-9a55-5a0e-8a4b-0c7a3f9b1d64")
"""Of the ids that are made here; any fixed value does."""
_PARTS = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}
"""Where the signatures are in the kwargs of a composed one."""


@dataclass(frozen=True, slots=True)
class Once:
    """Messages that are published once in a scope."""

    scope: str
    task_ids: frozenset[str]


_current: ContextVar[Once | None] = ContextVar("celeray_once", default=None)


@contextmanager
def once(messages: Once | None) -> Iterator[None]:
    """Publish these once within the block; None changes nothing."""
    if messages is None:
        yield
        return
    token = _current.set(messages)
    try:
        yield
    finally:
        _current.reset(token)


def scope_of(task_id: str | None, request: Any) -> str | None:
    """The scope in which a message is published once; None: as often as asked.

    Args:
        request: of the task that runs in this thread, or None.
    """
    for found in (_current.get(), getattr(request, "celeray_once", None)):
        if found is not None and task_id in found.task_ids:
            return str(found.scope)
    return None


class FollowUpProducer:
    """Stands before a kombu producer while Celery's task sender sends one message, and tries again where it is refused.

    A sending that was refused may have been done: its reply was lost, or too few replicas confirmed it. Where the
    server that knew of it is gone too, only the message itself can say that there may be two of it.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._tried = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, *, headers: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """As kombu's."""
        if self._tried and (headers or {}).get("id"):
            headers = {**(headers or {}), SENT_AGAIN: True}
        self._tried = True
        return self._producer.publish(body, headers=headers, **options)


# Naming


def success_messages(request: Any) -> Once | None:
    """What Celery's tracer publishes after a success: callbacks and the chain's next step. Sets their task ids."""
    fence = fence_of(request)
    if fence is None:
        return None
    named = _named(request.callbacks, f"{fence.message}/link")
    return Once(
        fence.message, frozenset([*named, *_named((request.chain or ())[-1:], f"{fence.message}/chain")])
    )


def failure_messages(request: Any) -> Once | None:
    """What Celery publishes after a failure: errbacks. Sets their task ids."""
    fence = fence_of(request)
    if fence is None:
        return None
    return Once(fence.message, frozenset(_named(request.errbacks, f"{fence.message}/link_error")))


def chord_messages(request: Any, scope: str) -> Once | None:
    """The body of the chord that a request is part of. Sets its task ids."""
    return Once(scope, frozenset(_named([request.chord], scope))) if request.chord else None


def _named(signatures: Iterable[Any] | None, path: str) -> Iterator[str]:
    for index, signature in enumerate(signatures or ()):
        if isinstance(signature, MutableMapping):
            yield from name(signature, f"{path}/{index}")


def name(signature: MutableMapping[str, Any], path: str) -> Iterator[str]:
    """Give a signature and its parts task ids that follow from `path`; those that they have stay. Yields all."""
    options = signature.setdefault("options", {})
    if not options.get("task_id"):
        options["task_id"] = str(uuid.uuid5(_NAMESPACE, path))
    yield options["task_id"]
    kwargs = signature.get("kwargs") or {}
    for part in _PARTS.get(str(signature.get("subtask_type")), ()):
        parts = kwargs.get(part)
        yield from _named(parts if isinstance(parts, list | tuple) else [parts], f"{path}/{part}")
