"""Why a message is parked: the closed list, with what each reason means. celeray/scheduler/outcomes.py decides.

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
    BAD_REQUEST = "bad_request"
    """Its resource requirements, or the value of a limit's key, can't be understood."""
    NEVER_FITS = "never_fits"
    """No node of the cluster could hold its request, even idle."""
    FAILED = "failed"
    """The task raised an exception, and nothing retries it any more."""
    TIME_LIMIT = "time_limit"
    """The soft or hard time limit ended the run for good."""
    REJECTED = "rejected"
    """The task raised `Reject` without requeue."""
    VRAM = "vram"
    """The task ran out of GPU memory, and no larger place is left to try."""
    HOST_MEMORY = "host_memory"
    """The task ran out of host memory: it raised MemoryError, or its process was killed for that."""
    WORKER_LOST = "worker_lost"
    """The process that ran it ended, and nothing runs it again."""
    EXECUTOR_LOST = "executor_lost"
    """As `worker_lost`, of an executor of the bridge."""
    NODE_LOST = "node_lost"
    """As `worker_lost`, together with its node."""
    REPORTED = "reported"
    """Somebody put it on the dead-letter queue."""
