"""Messages whose lease has ended go back to the front of their list. Any number of processes may do it at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.scripts import Argument, script

logger = logging.getLogger(__name__)

MESSAGES_A_RUN = 200
"""Redis serves nobody else during the script: about 5 ms for so many."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What one run of the script did."""

    waiting: bool = False
    """Redis restarted or was promoted less than one lease time ago: nothing is restored yet."""
    restored: int = 0
    poisoned: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    """Old messages of stock workers on a named exchange, whose queue only kombu can look up."""


def restore_expired(
    client: Any,
    keys: Keys,
    options: LeaseOptions,
    *,
    visibility_timeout_s: float,
    priority_steps: Sequence[int],
) -> Restored:
    """Restore what has expired by the server's clock, at most 200 messages. Idempotent.

    Args:
        client: without a key prefix of its own.
        visibility_timeout_s: for messages that a stock worker holds.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    args: list[Argument] = [
        options.lease_s,
        visibility_timeout_s,
        MESSAGES_A_RUN,
        options.poison_after,
        keys.prefix,
        keys.separator,
        *priority_steps,
    ]
    waiting, restored, poisoned, bound = script("restore")(
        client, [*keys.lease_book(), keys.restore_marker()], args
    )
    found = Restored(bool(waiting), int(restored), _texts(poisoned), _texts(bound))
    if found.restored:
        logger.warning("%d messages whose lease had ended are back in their queues", found.restored)
    for tag in found.poisoned:
        logger.error("message %s is parked: its runs begin and never end", tag)
    return found


def _texts(values: Sequence[bytes | str]) -> tuple[str, ...]:
    return tuple(value.decode() if isinstance(value, bytes) else value for value in values)
