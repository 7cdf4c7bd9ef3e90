"""What an exception that leaves a task's body means, decided where the task runs and before anything is stored."""

from __future__ import annotations

import random
import traceback
from collections.abc import Mapping
from typing import Any

from celery.exceptions import Retry

from celeray.scheduler.endings.classifying import names_of, outcome_of_body
from celeray.scheduler.gpu_memory import refuse_failure
from celeray.scheduler.installed import settings_of
from celeray.scheduler.letters.attempts import end_of, name_of, text_of
from celeray.scheduler.outcomes import History, Outcome, RetryAt, settle

RETRIED = "celeray_retried"
"""In the `delivery_info` of a request whose worker sends messages again: how often the task's policy has done so."""


class PolicyRetry(Retry):
    """A retry policy runs the task again: its worker keeps the message, and the task's `retries` stay as they are."""

    def __init__(
        self,
        message: str | None = None,
        exc: Exception | None = None,
        when: float = 0.0,
        outcome: str = Outcome.EXCEPTION,
        error_name: str = "",
        error_text: str = "",
        trace: str = "",
    ) -> None:
        super().__init__(message, exc, when)
        self.in_s = when
        self.outcome = Outcome(outcome)
        self.error_name = error_name
        self.error_text = error_text
        self.trace = trace

    @classmethod
    def of(cls, error: Exception, outcome: Outcome, in_s: float) -> PolicyRetry:
        """For an exception that is being handled.

        Args:
            in_s: seconds until the next attempt.
        """
        text = text_of(error)
        name = name_of(type(error))
        words = f"Retry in {in_s:.0f}s by its policy: {name}: {text}"
        trace = end_of("".join(traceback.format_exception(error)))
        return cls(words, error, in_s, outcome, name, text, trace)

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.message, self.exc, self.in_s, self.outcome.value)
        return type(self), (*given, self.error_name, self.error_text, self.trace)


def after_exception(task: Any, request: Any, error: Exception) -> None:
    """Called for every exception of a task's body in a worker, inside the gate; returning lets it be a failure.

    Raises:
        PlaceAgainError: the task ran out of GPU memory, and whoever runs it places it again with more.
        PolicyRetry: the task's retry policy runs it again.
    """
    refuse_failure(error)
    outcome = outcome_of_body(error)
    if (attempts := retried_before(request)) is None:
        return
    policy = settings_of(task.app).retry_policy_of(task.name)
    history = History(attempts, names_of(type(error)))
    match settle(outcome, history, policy, random.random()):  # noqa: S311 - no secret
        case RetryAt(in_s):
            # What is stored from now on completes nothing: the message is still to be kept.
            request.celeray_kept = True
            raise PolicyRetry.of(error, outcome, in_s) from error


def retried_before(request: Any) -> int | None:
    """How often the policy has sent the message again. None: nobody would send it again."""
    info = getattr(request, "delivery_info", None)
    found = info.get(RETRIED) if isinstance(info, Mapping) else None
    return found if isinstance(found, int) else None
