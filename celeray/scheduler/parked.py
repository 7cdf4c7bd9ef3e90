"""Why a message is parked: the closed list, with what each reason means.

`poison` and `unreadable` are written by the Lua files of the transport as well (lua/lease.lua, lua/claim.lua), under
the same names. docs/operations.md has the table for operators.
"""

from __future__ import annotations

from enum import StrEnum


class ParkReason(StrEnum):
    """As the field `reason` of a parked record has it."""

    POISON = "poison"
    """As many runs as `poison_after` have begun and none ended: it ends the process that runs it."""
    UNREADABLE = "unreadable"
    """The bytes on the list are no message of kombu, so no consumer has seen it."""
    UNDECODABLE = "undecodable"
    """A message of kombu whose body can't be decompressed, or decoded as its content type says."""
    CONTENT_TYPE = "content_type"
    """Its content type, encoding or compression is refused here (`accept_content`), or not known."""
    UNKNOWN_TASK = "unknown_task"
    """The worker that took it has no task of this name."""
    BAD_MESSAGE = "bad_message"
    """It names no task, or its headers or its body are not those of Celery's message protocol."""
