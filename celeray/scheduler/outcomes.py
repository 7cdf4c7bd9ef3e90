"""How a run or a message ends, and what becomes of it: one outcome, one verdict. Pure.

docs/architecture.md has the table; a test compares it with the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from celeray.scheduler.backoff import RetryPolicy, delay_s, retries
from celeray.scheduler.parked import ParkReason


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    EXCEPTION = "exception"
    """The task raised it, and Celery's own retries (`autoretry_for`, `self.retry`) are used up or not asked for."""
    CELERY_RETRY = "celery_retry"
    """The task called `self.retry`, or Celery did: the next attempt is a message of its own."""
    IGNORE = "ignore"
    REJECT = "reject"
    SOFT_TIME_LIMIT = "soft_time_limit"
    TIME_LIMIT = "time_limit"
    REVOKED = "revoked"
    EXPIRED = "expired"
    GPU_MEMORY = "gpu_memory"
    HOST_MEMORY = "host_memory"
    """The kernel, or Ray for it, killed the process; or the task raised MemoryError."""
    WORKER_LOST = "worker_lost"
    """The process that ran it ended, and its worker saw it."""
    EXECUTOR_LOST = "executor_lost"
    NODE_LOST = "node_lost"
    POISON = "poison"
    """Too many runs of the message have begun and none has ended."""
    UNREADABLE = "unreadable"
    UNDECODABLE = "undecodable"
    CONTENT_TYPE = "content_type"
    UNKNOWN_TASK = "unknown_task"
    BAD_MESSAGE = "bad_message"
    BAD_REQUEST = "bad_request"
    """Its resource requirements, or a limit's key, can't be understood."""
    NEVER_FITS = "never_fits"


@dataclass(frozen=True, slots=True)
class History:
    """What a verdict depends on besides the outcome."""

    attempts: int = 0
    """Failed attempts before this one that its policy has retried."""
    errors: frozenset[str] = frozenset()
    """Names of the exception's class and of those that it inherits from, with and without their modules."""
    requeues: bool = False
    """Celery's settings of the task, or the task's own `Reject`, put the message back."""
    may_place_again: bool = False
    """Whoever runs it can give it a larger place."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is done with."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The message is sent again later."""

    in_s: float
    """Seconds from now."""


@dataclass(frozen=True, slots=True)
class Park:
    """The message stays as a dead letter."""

    reason: ParkReason


@dataclass(frozen=True, slots=True)
class PlaceAgain:
    """The run begins again in a larger place; it is no attempt."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The message goes back to its queue at once. The begun run counts, so that it is parked as poison in the end."""


Verdict = Ack | RetryAt | Park | PlaceAgain | GiveBack


def settle(outcome: Outcome, history: History, policy: RetryPolicy | None, chance: float = 0.0) -> Verdict:
    """What becomes of the message.

    Args:
        policy: of the task. None: a failure is final at once.
        chance: from 0 to 1, for the policy's jitter.
    """
    match outcome:
        case Outcome.SUCCESS | Outcome.IGNORE | Outcome.CELERY_RETRY | Outcome.REVOKED | Outcome.EXPIRED:
            return Ack()
        case (
            Outcome.EXCEPTION
            | Outcome.SOFT_TIME_LIMIT
            | Outcome.TIME_LIMIT
            | Outcome.HOST_MEMORY
            | Outcome.WORKER_LOST
            | Outcome.EXECUTOR_LOST
            | Outcome.NODE_LOST
        ):
            return GiveBack() if history.requeues else _retried(outcome, history, policy, chance)
        case Outcome.GPU_MEMORY:
            # The same request would end in the same way, so no policy retries it.
            return PlaceAgain() if history.may_place_again else Park(reason_of(outcome))
        case Outcome.REJECT:
            return GiveBack() if history.requeues else Park(reason_of(outcome))
        case (
            Outcome.POISON
            | Outcome.UNREADABLE
            | Outcome.UNDECODABLE
            | Outcome.CONTENT_TYPE
            | Outcome.UNKNOWN_TASK
            | Outcome.BAD_MESSAGE
            | Outcome.BAD_REQUEST
            | Outcome.NEVER_FITS
        ):
            return Park(reason_of(outcome))


def _retried(outcome: Outcome, history: History, policy: RetryPolicy | None, chance: float) -> RetryAt | Park:
    attempt = history.attempts + 1
    if policy is None or not retries(policy, attempt, history.errors):
        return Park(reason_of(outcome))
    return RetryAt(delay_s(policy, attempt, chance))


def reason_of(outcome: Outcome) -> ParkReason:
    """Why a message is parked that ended so for good; an outcome that parks nothing has none.

    Raises:
        ValueError: it parks nothing.
    """
    match outcome:
        case Outcome.EXCEPTION:
            return ParkReason.FAILED
        case Outcome.SOFT_TIME_LIMIT:
            return ParkReason.TIME_LIMIT
        case Outcome.GPU_MEMORY:
            return ParkReason.VRAM
        case Outcome.REJECT:
            return ParkReason.REJECTED
        case _:
            return ParkReason(outcome)
