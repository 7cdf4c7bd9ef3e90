"""What a limit says, as the setting `limits` or the task's option `limits` declares it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from celeray.scheduler.errors import LimitError

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""By the letter of a rate, as Celery's `rate_limit` has them."""
INTERVAL_MOST_S = 7 * 86_400.0
RATE_MOST = 10_000.0
"""Runs a second. Each costs Redis a script call of about 50 us, besides its message."""
CONCURRENCY_MOST = 10_000
BURST_MOST = 10_000
BURST_S = 0.1
"""Without `burst`, as much of the rate as falls into this time may begin at once, and at least one run."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/([smh]))?", re.ASCII)
_RATE_BOUND = (
    "expected a number and /s, /m or /h, such as '10/s', '100/m' or '5/h', "
    f"up to {RATE_MOST:g} a second and at least one in 7 days"
)
_KEY = re.compile(r"kwargs\.[^\W\d]\w*|args\.\d{1,3}|headers\.[\w-]+")


def interval_of(rate: Any) -> float:
    """Seconds between two runs at a rate as Celery spells it; a number, or text without a letter, is a second's.

    Raises:
        ValueError: it is no rate, or out of its bound.
    """
    found = None
    if isinstance(rate, str):
        found = _RATE.fullmatch(rate.strip())
    elif isinstance(rate, int | float) and not isinstance(rate, bool):
        found = _RATE.fullmatch(format(rate, "f") if math.isfinite(rate) else "")
    if found is None or float(found[1]) == 0:
        raise ValueError(_RATE_BOUND)
    interval_s = SECONDS[found[2] or "s"] / float(found[1])
    if not 1 / RATE_MOST <= interval_s <= INTERVAL_MOST_S:
        raise ValueError(_RATE_BOUND)
    return interval_s


def _checked_rate(rate: Any) -> str | None:
    if rate is None:
        return None
    interval_of(rate)
    return str(rate).strip()


def _checked_key(key: Any) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError("expected kwargs.NAME, args.NUMBER or headers.NAME")
    return key


class LimitDeclaration(BaseModel):
    """One limit. Without `key` it holds for all calls together, else for those of each value by themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Annotated[str | None, BeforeValidator(_checked_rate)] = None
    """Runs that may begin in a time, such as `10/m`. None: any number."""
    concurrency: int | None = Field(default=None, strict=True, ge=1, le=CONCURRENCY_MOST)
    """Runs that may be under way at once. None: any number."""
    burst: int | None = Field(default=None, strict=True, ge=1, le=BURST_MOST)
    """Runs that may begin at once after a pause; in any time no more than its share of `rate` plus these begin."""
    key: Annotated[str | None, BeforeValidator(_checked_key)] = None
    """Which value of the call the limit is for: `kwargs.NAME`, `args.NUMBER` or `headers.NAME`."""

    @model_validator(mode="after")
    def _limits_something(self) -> LimitDeclaration:
        if self.rate is None and self.concurrency is None:
            raise ValueError("expected rate, concurrency or both")
        if self.burst is not None and self.rate is None:
            raise ValueError("burst is of a rate, and there is none")
        return self

    @property
    def interval_s(self) -> float | None:
        """Seconds between two runs at the rate. None: no rate."""
        return None if self.rate is None else interval_of(self.rate)

    @property
    def runs_at_once(self) -> int:
        """`burst`, or what stands for it where it was not given."""
        interval_s = self.interval_s
        if self.burst is not None or interval_s is None:
            return self.burst or 1
        return max(1, math.ceil(round(BURST_S / interval_s, 6)))


def declared(value: Any) -> LimitDeclaration:
    """The task's option `limits`, read.

    Raises:
        LimitError: it can't be understood; names key, value and bound.
    """
    if isinstance(value, LimitDeclaration):
        return value
    if not isinstance(value, Mapping):
        raise LimitError("limits", value, "expected a mapping with rate, concurrency, burst or key")
    try:
        return LimitDeclaration.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "limits"
        raise LimitError(key, first["input"], first["msg"]) from None
