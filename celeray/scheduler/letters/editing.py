"""The message of a letter with another queue, priority or request. Pure.

Only the members that change are replaced in the text, or put first in their object where they were missing; the body
and everything else stay byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler import message_class, priorities, requests, tenants
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.letters.envelope import Envelope, put, renewed
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.topology import ANONYMOUS


@dataclass(frozen=True, slots=True)
class Edits:
    """What shall be another. None: as it is."""

    queue: str | None = None
    priority: int | None = None
    """Of the API, 1 to 10; it is translated here, and nowhere after."""
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Those that are replaced or added."""
    lowest_first: bool = True
    """Whether the message's broker serves 0 first."""


@dataclass(frozen=True, slots=True)
class RequestEdit:
    """The resource requirements of one message, before and after."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    headers: Mapping[str, Any]
    """Of the message, where they change."""


def edited(envelope: Envelope, tag: str, edits: Edits) -> bytes:
    """The message as `renewed` makes it, with the edits."""
    text = renewed(envelope, tag).decode()
    if edits.priority is not None:
        broker = priorities.to_broker(edits.priority, lowest_first=edits.lowest_first)
        text = put(text, ("properties", "priority"), broker)
        text = put(text, ("headers", priorities.HEADER), edits.priority)
    if edits.queue is not None:
        text = put(text, ("properties", "delivery_info", "exchange"), ANONYMOUS)
        text = put(text, ("properties", "delivery_info", "routing_key"), edits.queue)
    for name, value in edits.headers.items():
        text = put(text, ("headers", name), value)
    return text.encode()


def edit_request(
    headers: Mapping[str, Any], edits: Mapping[str, Any], queue: str, router: TaskRouter
) -> RequestEdit:
    """Resource requirements over those that a message carries, by the rules of publishing.

    What the task itself declares is not known here: the worker merges the header over it, as ever.

    Args:
        queue: that the message will be on.

    Raises:
        RequirementError: the message's own can't be understood, or both together contradict each other.
    """
    before = headers.get(requests.HEADER)
    if before is not None and not isinstance(before, Mapping):
        raise RequirementError(requests.HEADER, before, "a mapping of keys to values")
    after = requests.merge_raw(edits, before or {})
    wanted = router.request_for({requests.HEADER: after}, None, queue)
    changed: dict[str, Any] = {requests.HEADER: after}
    if wanted.gpus or router.settings.is_gpu_queue(queue) or message_class.HEADER in headers:
        changed[message_class.HEADER] = message_class.message_class(
            str(headers.get("task")), wanted, tenants.tenant_of(headers)
        )
    return RequestEdit(before or {}, after, changed)
