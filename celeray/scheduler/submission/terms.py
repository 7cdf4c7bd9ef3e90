"""What one call asks of its submission: read from headers, the task and the settings before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.errors import SubmissionError
from celeray.scheduler.submission import deduplication
from celeray.scheduler.submission.deduplication import HOLD_HEADER, Deduplication

DURABLE_HEADER = "durable_replicas"
"""Message header, task attribute and setting."""
REPLICAS_MAX = 16
NOTHING: Mapping[str, Any] = {}

FIRST, LINKED, AGAIN = "first", "linked", "again"
"""As submit.lua has them."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Of one message."""

    task: str
    task_id: str
    token: str
    """Names this very publish: the same for a repetition after a lost reply, another one for a `retry()`."""
    mode: str = FIRST
    digest: str = ""
    """Of the dedup key. Empty: none."""
    until_ended: bool = False
    period_ms: int = 0
    replicas: int = 0

    @property
    def special(self) -> bool:
        """Whether Celery's own way of publishing can't keep them."""
        return bool(self.digest or self.replicas)

    @property
    def hold(self) -> str | None:
        """What the message carries to let go of its key."""
        return f"{self.digest}:{self.token}" if self.until_ended else None


def wanted(name: str, headers: Mapping[str, Any], task: Any) -> Any:
    """A key's value in the headers, else on the task."""
    found = headers.get(name)
    return getattr(task, name, None) if found is None else found


def read_terms(
    name: str,
    message: Any,
    headers: Mapping[str, Any],
    *,
    task: Any = None,
    replicas: int = 0,
    running: Any = None,
    batch_id: str | None = None,
) -> Terms:
    """The terms of a message that Celery has made.

    Args:
        message: Celery's `task_message`, of protocol 2.
        headers: of the call.
        task: where this process knows it.
        replicas: where neither headers nor task say.
        running: the request of the task that publishes, inside of a worker.
        batch_id: the group of the batch that it is in.

    Raises:
        SubmissionError: not understood, or out of its bound.
    """
    facts = message.headers
    task_id, retries = facts["id"], facts.get("retries") or 0
    replaces = running is not None and running.id == task_id
    token = f"{task_id}:{retries}:{facts.get('replaced_task_nesting') or 0}"
    durable = _replicas(wanted(DURABLE_HEADER, headers, task), replicas)
    if retries or replaces:
        # The same run goes on, so it goes on under the key that it has, whatever its arguments are by now.
        held = headers.get(HOLD_HEADER) or (
            (running.headers or NOTHING).get(HOLD_HEADER) if replaces else None
        )
        digest = held.partition(":")[0] if isinstance(held, str) else ""
        return Terms(name, task_id, token, AGAIN, digest, bool(digest), 0, durable)
    found = deduplication.parse(wanted(deduplication.HEADER, headers, task))
    if found is None:
        return Terms(name, task_id, token, replicas=durable)
    return _deduplicated(found, Terms(name, task_id, token, replicas=durable), message, batch_id)


def _deduplicated(found: Deduplication, terms: Terms, message: Any, batch_id: str | None) -> Terms:
    args, kwargs, embed = message.body
    group = message.headers.get("group")
    linked = (
        any(embed.values()) or embed.get("chain") is not None or (group is not None and group != batch_id)
    )
    return Terms(
        terms.task,
        terms.task_id,
        terms.token,
        LINKED if linked else FIRST,
        deduplication.digest(found, terms.task, args, kwargs),
        found.until_ended,
        found.period_ms,
        terms.replicas,
    )


def _replicas(raw: Any, default: int) -> int:
    if raw is None:
        return default
    if not isinstance(raw, int) or isinstance(raw, bool) or not 0 <= raw <= REPLICAS_MAX:
        raise SubmissionError(DURABLE_HEADER, raw, f"a whole number from 0 to {REPLICAS_MAX}")
    return raw
