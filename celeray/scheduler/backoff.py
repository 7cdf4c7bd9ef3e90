"""How long a retry policy waits before the next attempt, and when it gives up. Pure: chance comes as a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DELAY_MOST_S = 30 * 86_400.0
ATTEMPTS_MOST = 1000
NAME_MOST = 500
GROWTH_MOST = 700.0
"""Logarithm of the largest power that is taken: that of the largest float is 709."""


class RetryPolicy(BaseModel):
    """When a task that failed runs again. Attempts are runs that ended in a failure, the first one included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["exponential", "linear", "constant"] = "exponential"
    """The n-th wait is `base_s` times `factor` to the power n - 1, `base_s` times n, or `base_s`."""
    base_s: float = Field(default=60.0, ge=0, le=DELAY_MOST_S)
    """The first wait in seconds. 0: at once."""
    factor: float = Field(default=2.0, ge=1, le=100)
    """Of an exponential policy."""
    max_s: float = Field(default=3600.0, ge=0, le=DELAY_MOST_S)
    """No wait is longer, in seconds."""
    max_attempts: int = Field(default=6, ge=1, le=ATTEMPTS_MOST)
    """After so many failed attempts it is final. 1: never retried."""
    jitter: float = Field(default=0.2, ge=0, le=1)
    """By chance up to this share of a wait is left out, so that what failed together does not come back together."""
    never: tuple[str, ...] = ()
    """Names of exceptions that are final at once, theirs that inherit from them included: `ValueError`, or with their
    module, `requests.exceptions.HTTPError`."""

    @model_validator(mode="after")
    def _is_consistent(self) -> RetryPolicy:
        if self.max_s < self.base_s:
            raise ValueError(f"max_s={self.max_s!r}: expected at least base_s={self.base_s!r}")
        for name in self.never:
            if not name or len(name) > NAME_MOST or not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"never={name!r}: expected a class's name, with or without its module")
        return self


BUILT_IN: Mapping[str, RetryPolicy] = {
    "default": RetryPolicy(),
    "critical": RetryPolicy(base_s=30.0, factor=1.5, max_s=1800.0, max_attempts=12),
    "batch": RetryPolicy(kind="linear", base_s=300.0, max_attempts=4),
}
"""The policies that need no declaration."""


def delay_s(policy: RetryPolicy, attempt: int, chance: float) -> float:
    """Seconds to wait after a failed attempt.

    Args:
        attempt: its number, from 1.
        chance: from 0 (the whole wait) to 1 (without the whole jitter).
    """
    longest = min(policy.max_s, _undisturbed_s(policy, attempt))
    return longest * (1 - policy.jitter * chance)


def _undisturbed_s(policy: RetryPolicy, attempt: int) -> float:
    if policy.kind == "constant" or policy.base_s == 0:
        return policy.base_s
    if policy.kind == "linear":
        return policy.base_s * attempt
    # As logarithms, since the power itself may be beyond what a float holds.
    growth = (attempt - 1) * math.log(policy.factor)
    if growth + math.log(policy.base_s) >= math.log(policy.max_s):
        return policy.max_s
    if growth > GROWTH_MOST:
        return math.exp(growth + math.log(policy.base_s))
    return policy.base_s * policy.factor ** (attempt - 1)


def retries(policy: RetryPolicy, attempt: int, errors: Collection[str]) -> bool:
    """Whether a failed attempt is not the last one.

    Args:
        attempt: its number, from 1.
        errors: names of the exception's class and of those that it inherits from, with and without their modules.
    """
    return attempt < policy.max_attempts and not any(name in errors for name in policy.never)


def chosen(task: str, patterns: Mapping[str, str]) -> str | None:
    """The name of a task's policy: the name itself counts before patterns, and of patterns the longest. None: none."""
    if (named := patterns.get(task)) is not None:
        return named
    matching = [pattern for pattern in patterns if fnmatchcase(task, pattern)]
    return patterns[max(matching, key=lambda pattern: (len(pattern), pattern))] if matching else None
