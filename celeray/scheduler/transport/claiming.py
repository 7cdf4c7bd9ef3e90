"""The claim: what to ask for, and what the reply says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler.parked import ParkReason
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.message import Payload, UnreadableMessageError, read_payload
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

SKIPPED_MOST = 1000
"""Messages of a list that a claim usually looks past, within `claim_max_bytes`. Redis takes about 2 ms for so many."""
_HEAD, _FIELDS = 6, 5
"""Items before the messages in the reply of claim.lua, and of each message."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one class of messages: how many more of it may be taken."""

    room: int
    level: int
    """From this level on; what is more urgent is taken without regard to it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a consumer wants of the messages, besides the most urgent ones."""

    over: int = 0
    """Messages beyond the prefetch count, if they are in one of the `urgent_levels`."""
    urgent_levels: int = 0
    """The first so many levels."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By class, as celeray/scheduler/message_class.py tells them apart."""


ANY = Choice()


@dataclass(frozen=True, slots=True)
class Claim:
    """One call of claim.lua."""

    queues: tuple[str, ...]
    """In the order in which they have their turn."""
    lists: tuple[str, ...]
    """Keys, most urgent level first, the queues in order within a level."""
    most: int
    takes_turns: bool = True
    choice: Choice = ANY
    depth: int = SKIPPED_MOST
    """Messages of a list that it may look past."""

    def keys(self, book: LeaseBook) -> list[str]:
        return [*self.lists, book.keys.paused()]

    def arguments(self, book: LeaseBook) -> list[Argument]:
        options, choice = book.options, self.choice
        limits = ((name, limit.room, limit.level) for name, limit in choice.limits.items())
        return [
            *book.book_keys,
            book.keys.fence(),
            self.most,
            options.claim_max_bytes,
            book.owner,
            options.lease_s,
            len(self.queues),
            int(self.takes_turns),
            choice.over,
            choice.urgent_levels,
            self.depth,
            *self.queues,
            *(part for limit in limits for part in limit),
        ]


@dataclass(slots=True)
class Claimed:
    """The reply, read."""

    messages: list[tuple[Payload, str]] = field(default_factory=list)
    """With the queue that each was taken from, in the order of their turn."""
    parked: int = 0
    skipped: int = 0
    """Messages that were looked past."""
    cut: bool = False
    """A list was not looked through, since too many of it were looked past."""
    behind: bool = False
    """Something was taken behind what was looked past."""
    size: int = 0
    """Messages claimed, readable or not."""
    left_from: int = 0
    """The first level in which something may be left."""
    paused: frozenset[str] = frozenset()
    """Those of the claim's queues that are paused."""


def read_reply(reply: Sequence[Any], claim: Claim, book: LeaseBook) -> Claimed:
    """Enter the leases into the book, and decode. What kombu can't decode is parked.

    Raises:
        redis.RedisError: parking failed; that message stays held until its lease ends.
    """
    found = Claimed(
        parked=int(reply[0]),
        skipped=int(reply[1]),
        cut=bool(int(reply[4])),
        behind=bool(int(reply[5])),
        size=(len(reply) - _HEAD) // _FIELDS,
        left_from=int(reply[2]),
        paused=frozenset(claim.queues[number - 1] for number in reply[3]),
    )
    if found.parked:
        logger.error("%d unreadable messages are parked, of %s", found.parked, ", ".join(claim.queues))
    broken: list[tuple[Lease, str]] = []
    width = len(claim.queues)
    for at in range(_HEAD, len(reply), _FIELDS):
        index, tag, token, begun, raw = reply[at : at + _FIELDS]
        level, slot = divmod(int(index) - 1, width)
        lease = book.add(tag.decode(), token.decode())
        lease.level = level
        try:
            payload = read_payload(raw, lease, was_delivered=begun != b"")
        except UnreadableMessageError as error:
            broken.append((lease, str(error)))
        else:
            found.messages.append((payload, claim.queues[slot]))
    for lease, why in broken:
        book.park(lease, ParkReason.UNREADABLE, why)
    return found
