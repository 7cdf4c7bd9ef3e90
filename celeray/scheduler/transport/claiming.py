"""The claim: what to ask for, and what the reply says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler.transport.leases import Lease, LeaseBook
from celeray.scheduler.transport.message import Payload, UnreadableMessageError, read_payload
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

_FIELDS = 5
"""Of a message in the reply of claim.lua."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One call of claim.lua."""

    queues: tuple[str, ...]
    """In the order in which they have their turn."""
    lists: tuple[str, ...]
    """Keys, most urgent level first, the queues in order within a level."""
    most: int
    takes_turns: bool = True

    def arguments(self, book: LeaseBook) -> list[Argument]:
        options = book.options
        return [
            *book.book_keys,
            book.keys.fence(),
            self.most,
            options.claim_max_bytes,
            book.owner,
            options.lease_s,
            len(self.queues),
            int(self.takes_turns),
        ]


@dataclass(slots=True)
class Claimed:
    """The reply, read."""

    messages: list[tuple[Payload, str]] = field(default_factory=list)
    """With the queue that each was taken from, in the order of their turn."""
    parked: int = 0
    size: int = 0
    """Messages claimed, readable or not."""


def read_reply(reply: Sequence[Any], claim: Claim, book: LeaseBook) -> Claimed:
    """Enter the leases into the book, and decode. What kombu can't decode is parked.

    Raises:
        redis.RedisError: parking failed; that message stays held until its lease ends.
    """
    found = Claimed(parked=int(reply[0]), size=(len(reply) - 1) // _FIELDS)
    if found.parked:
        logger.error("%d unreadable messages are parked, of %s", found.parked, ", ".join(claim.queues))
    broken: list[tuple[Lease, str]] = []
    for at in range(1, len(reply), _FIELDS):
        index, tag, token, begun, raw = reply[at : at + _FIELDS]
        lease = book.add(tag.decode(), token.decode())
        try:
            payload = read_payload(raw, lease, int(begun))
        except UnreadableMessageError as error:
            broken.append((lease, str(error)))
        else:
            found.messages.append((payload, claim.queues[(int(index) - 1) % len(claim.queues)]))
    for lease, why in broken:
        book.park(lease, "unreadable", why)
    return found
