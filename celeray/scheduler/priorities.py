"""Priorities 1 to 10, 10 most urgent, and what they are on the broker. Pure.

Redis serves 0 first (`kombu/transport/redis.py`, `_brpop_start`), AMQP the highest number. An API priority is
translated once, at publish; the message header `celeray_priority` tells a receiver, and a second publish of the same
task such as `retry()`, that this was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.errors import FlagError

HEADER = "celeray_priority"
"""Message header: the effective API priority."""
LEAST, MOST, DEFAULT = 1, 10, 5
USER_INITIATED_BONUS = 2
LARGE_BATCH = 10
"""A batch of more than this loses one step."""
BOUND = f"a whole number from {LEAST} to {MOST}"


@dataclass(frozen=True, slots=True)
class Flags:
    """What a caller said about urgency, in headers or, as older apps do it, in the task's kwargs."""

    priority: int | None = None
    priority_task: bool = False
    user_initiated: bool = False
    batch_size: int | None = None


NO_FLAGS = Flags()
_NAMES = ("priority", "priority_task", "user_initiated", "batch_size")


def read_flags(headers: Mapping[str, Any] | None, kwargs: Mapping[str, Any] | None) -> Flags:
    """Flags from `headers` first, then from `kwargs`, which are left as they are.

    A kwarg of such a name may be the task's own argument: one that can't be a flag is none. None is no flag.

    Raises:
        FlagError: a header has such a name and a value that can't be understood.
    """
    found: dict[str, Any] = {}
    for name in _NAMES:
        if headers and (value := headers.get(name)) is not None:
            if not _usable(name, value):
                raise FlagError(name, value, _BOUNDS[name])
            found[name] = value
        elif kwargs and (value := kwargs.get(name)) is not None and _usable(name, value):
            found[name] = value
    return Flags(**found) if found else NO_FLAGS


_BOUNDS = {
    "priority": BOUND,
    "priority_task": "true or false",
    "user_initiated": "true or false",
    "batch_size": "a whole number of at least 0",
}


def _usable(name: str, value: Any) -> bool:
    if name in ("priority_task", "user_initiated"):
        return isinstance(value, bool)
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return LEAST <= value <= MOST if name == "priority" else value >= 0


def checked(value: Any) -> int:
    """The `priority` option of `apply_async` as an API priority.

    Celery documents 0 to 9 for it, so 0 is understood as the least urgent.

    Raises:
        FlagError: not a whole number from 0 to 10.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise FlagError("priority", value, BOUND)
    return max(LEAST, value)


def effective(base: int, flags: Flags) -> int:
    """`base` moved by the flags, within 1 to 10."""
    priority = base
    if flags.user_initiated:
        priority += USER_INITIATED_BONUS
    if flags.batch_size is not None and flags.batch_size > LARGE_BATCH:
        priority -= 1
    return min(MOST, max(LEAST, priority))


def to_broker(priority: int, *, lowest_first: bool) -> int:
    """Broker priority of an API priority. `lowest_first` is Redis."""
    return MOST - priority if lowest_first else priority


def from_broker(value: Any, header: Any, *, lowest_first: bool) -> int:
    """API priority of a received message.

    Args:
        value: the message's broker priority. None and 0 are what stock producers send when none was set.
        header: the message's `celeray_priority`, or None. It counts only where it agrees with `value`: a message that
            was moved by someone else has the priority that they gave it.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        value = None
    if isinstance(header, int) and not isinstance(header, bool) and LEAST <= header <= MOST:
        # Virtual transports clamp to 9, so 10 and 9 come out alike on those that serve the highest first.
        sent = to_broker(header, lowest_first=lowest_first)
        if value is None or value in (sent, min(sent, 9)):
            return header
    elif not value:
        return DEFAULT
    if value is None:
        return DEFAULT
    return min(MOST, max(LEAST, MOST - value if lowest_first else value))
