"""The audit trail: who changed what from the outside, when and why. Written in the transaction of the change itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict

from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.keys import Keys

RECORDS_MAX = 10_000
"""About 2 MB of Redis. Trimming is approximate, so that some more may be there."""
ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
BY_MAX_CHARS = 200
WHY_MAX_CHARS = 500


class AuditRecord(BaseModel):
    """One change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    """Rises with time; Redis gives it."""
    at: float
    """Seconds since the epoch, by the clock of whoever made the change."""
    by: str
    """user@host, or `token:ID`."""
    action: str
    """`pause`, `resume`, `drain`, `undrain`, `redrive`, `discard` or `reset-learned`."""
    target: str
    """The queue, device or node, how many dead letters and which, or the task."""
    why: str


class AuditPage(BaseModel):
    """Records, newest first."""

    model_config = ConfigDict(frozen=True)

    records: tuple[AuditRecord, ...]
    next: str | None = None
    """Cursor of the next page. None: this is the last one."""


class AuditTrail:
    """A capped stream. Methods that ask Redis raise `redis.RedisError` when it does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        # Typed loosely: redis-py's own annotations are unions over both protocols and sync and async clients.
        self._client: Any = client
        self._key = keys.audit()

    def add(self, pipe: Any, *, at: float, by: str, action: str, target: str, why: str) -> None:
        """Queue a record on the caller's transaction."""
        fields = record_fields(at=at, by=by, action=action, target=target, why=why)
        pipe.xadd(self._key, fields, maxlen=RECORDS_MAX, approximate=True)

    def page(self, limit: int, before: str | None = None) -> AuditPage:
        """The newest records, or those before an id.

        Raises:
            ValueError: `before` is no id of a record.
        """
        if before is not None and not ID.fullmatch(before):
            raise ValueError(f"cursor={before!r}: expected the `next` of the page before")
        newest = "+" if before is None else f"({before}"
        found = self._client.xrevrange(self._key, max=newest, count=limit + 1)
        records = tuple(_record(entry_id, fields) for entry_id, fields in found[:limit])
        return AuditPage(records=records, next=records[-1].id if len(found) > limit else None)


def record_fields(*, at: float, by: str, action: str, target: str, why: str) -> dict[str, str]:
    """A record as the stream has it, for those who write it in a script of their own, with at most `RECORDS_MAX`."""
    return {"at": repr(at), "by": by, "action": action, "target": target, "why": why}


def checked_by(by: str) -> str:
    """The name as it is kept.

    Raises:
        OperatorInputError: it is empty, too long, or has control characters.
    """
    return _checked("by", by, BY_MAX_CHARS)


def checked_why(why: str) -> str:
    """The reason as it is kept.

    Raises:
        OperatorInputError: it is empty, too long, or has control characters.
    """
    return _checked("why", why, WHY_MAX_CHARS)


def _checked(key: str, value: str, most: int) -> str:
    # Line breaks would let one record look like two wherever it is printed.
    if not value.strip() or len(value) > most or not value.isprintable():
        raise OperatorInputError(key, value, f"1 to {most} printable characters on one line")
    return value.strip()


def _record(entry_id: bytes | str, fields: Mapping[bytes | str, bytes | str]) -> AuditRecord:
    return AuditRecord.model_validate(
        {"id": _text(entry_id), **{_text(key): _text(value) for key, value in fields.items()}}
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
