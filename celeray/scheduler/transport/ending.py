"""How a message ends whose run failed: as a dead letter, or waiting to be sent again, in one step with its ack."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import redis

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import BACK, LeaseBook, log_poison
from celeray.scheduler.transport.scripts import Argument, script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left of the message."""

    reason: str
    detail: str
    attempts: bytes
    """Packed, as celeray/scheduler/letters/attempts.py does it."""
    tries: int
    """How many attempts there were, kept or not."""
    exception: str
    """Of the last one; empty where there was none."""
    again_in_s: float | None
    """Seconds until it is sent again. None: it is parked."""

    def arguments(self, tag: str, token: str) -> list[Argument]:
        """The first eight of end_run.lua."""
        again = "" if self.again_in_s is None else f"{self.again_in_s:.6f}"
        return [tag, token, self.reason, self.detail, self.attempts, self.tries, self.exception, again]

    @property
    def words(self) -> str:
        """For the log."""
        what = "is parked" if self.again_in_s is None else f"is sent again in {self.again_in_s:.0f} s"
        return f"{what}: {self.reason}: {self.detail}"


def end_leased(book: LeaseBook, lease: Lease) -> None:
    """End the message of a lease as `lease.ending` says; of a lost lease it changes nothing.

    Where Redis does not answer, the message comes again when its lease ends.
    """
    ending: Ending = lease.ending
    counted = book.forget_begun(lease)
    args = [*ending.arguments(lease.tag, lease.token), int(counted)]
    try:
        done = book.give_up([lease], "end_run", [*book.book_keys, *book.keys.scheduled()], args)
    except (redis.RedisError, OSError) as error:
        logger.warning("the end of message %s could not be written, it comes again: %r", lease.tag, error)
        book.abandon(lease.delivery_tag)
        return
    if done:
        logger.info("message %s %s", lease.tag, ending.words)
    else:
        logger.warning("message %s is left to its owner, the lease is lost: %s", lease.tag, ending.words)


def end_unleased(client: Any, keys: Keys, tag: str, ending: Ending, list_name: str, message: bytes) -> None:
    """Write what is left of a message that is held without a lease, or not held any more. Again changes nothing.

    Args:
        client: without a key prefix of its own.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    args = [*ending.arguments(tag, ""), 0, list_name, message]
    script("end_run")(client, [*keys.lease_book(), *keys.scheduled()], args)
    logger.info("message %s %s", tag, ending.words)


def give_back_changed(book: LeaseBook, lease: Lease, message: bytes, *, push: str = BACK) -> None:
    """Put another version of a held message on its list, with the runs counted that have begun.

    Where Redis does not answer, the message comes again as it was when its lease ends.
    """
    args: list[Argument] = [lease.tag, lease.token, book.options.poison_after, message, push]
    try:
        # The script compares how many runs have begun.
        book.flush()
        verdict = book.give_up([lease], "give_back_changed", book.book_keys, args)
    except (redis.RedisError, OSError) as error:
        logger.warning("message %s could not be given back, it comes again: %r", lease.tag, error)
        book.abandon(lease.delivery_tag)
        return
    if verdict == b"poison":
        log_poison([lease.tag])
