"""Messages whose eta is far wait in a schedule in Redis, and go back to the front of their list before it.

So they take no place in a worker's window, and no crash loses them. A worker puts them there under its lease; any
number of workers and keepers bring back what is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack  # type: ignore[import-untyped]

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.scripts import Argument, script

MESSAGES_A_SCRIPT = 200
"""Redis serves nobody else during a script: about 5 ms for so many."""
BYTES_A_SCRIPT = 8 * 1024 * 1024
SCRIPTS_A_RUN = 50
"""10,000 messages that are due at once come back in one run, in less than a second."""
LOOKED_AT_MOST = 20_000
"""Entries that a listing looks through for those of its lists."""


class Verdict(IntEnum):
    """What schedule.lua made of a message."""

    GONE = 0
    """Not held any more: it is somebody else's."""
    SCHEDULED = 1
    REVOKED = 2
    """Its task was revoked: it is still held, and its consumer ends it."""


@dataclass(frozen=True, slots=True)
class FarEta:
    """A held message, and when it is wanted back."""

    lease: Lease
    back_in_s: float
    """From now, by the clock that reads the eta; so the server's own clock may be off."""
    task_id: str
    shown: str
    """JSON for whoever lists the schedule."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A look into the schedule."""

    shown: tuple[str, ...]
    """As the workers wrote it, what is due first first."""
    total: int
    """How many there are, shown or not."""


def schedule(book: LeaseBook, items: Sequence[FarEta]) -> list[Verdict]:
    """Take held messages into the schedule. Each is in one place at any moment.

    Raises:
        redis.RedisError: Redis does not answer; what was not done is still held.
    """
    verdicts: list[Verdict] = []
    for start in range(0, len(items), MESSAGES_A_SCRIPT):
        part = items[start : start + MESSAGES_A_SCRIPT]
        args: list[Argument] = [
            value
            for item in part
            for value in (item.lease.tag, item.lease.token, item.back_in_s, item.task_id, item.shown)
        ]
        keys = [*book.book_keys, *book.keys.schedule(), book.keys.revoked()]
        found = [
            Verdict(code) for code in book.give_up([item.lease for item in part], "schedule", keys, args)
        ]
        for item, verdict in zip(part, found, strict=True):
            if verdict is Verdict.REVOKED:
                book.keep(item.lease)
        verdicts += found
    return verdicts


def bring_back(client: Any, keys: Keys, now: float | None = None) -> int:
    """Put what is due back at the front of its list, at most 10,000 messages. Idempotent.

    Args:
        client: without a key prefix of its own.
        now: seconds since the epoch. None: by the server's clock.

    Returns:
        How many were put back.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    args: list[Argument] = ["" if now is None else now, MESSAGES_A_SCRIPT, BYTES_A_SCRIPT]
    moved = 0
    for _ in range(SCRIPTS_A_RUN):
        done, more = script("bring_back")(client, keys.schedule(), args)
        moved += int(done)
        if not more:
            break
    return moved


def count_scheduled(client: Any, keys: Keys) -> dict[str, int]:
    """How many messages wait for their eta, by the list that they go back to. Raises `redis.RedisError`."""
    counts = client.hgetall(keys.schedule()[-1])
    return {name.decode(): int(count) for name, count in counts.items()}


def list_scheduled(client: Any, keys: Keys, lists: Sequence[str], most: int) -> Listing:
    """What is scheduled for some lists, at most `most` of it. Raises `redis.RedisError`."""
    counts = keys.schedule()[-1]
    total = sum(int(count or 0) for count in client.hmget(counts, lists)) if lists else 0
    wanted = {name.encode() for name in lists}
    shown: list[str] = []
    for packed in _entries(client, keys) if total else ():
        list_name, _, text = msgpack.unpackb(packed, raw=True)
        if list_name in wanted:
            shown.append(text.decode())
        if len(shown) >= min(most, total):
            break
    return Listing(tuple(shown), total)


def _entries(client: Any, keys: Keys) -> Iterator[bytes]:
    due, entries, *_ = keys.schedule()
    for start in range(0, LOOKED_AT_MOST, 1000):
        members = client.zrange(due, start, start + 999)
        if members:
            yield from (packed for packed in client.hmget(entries, members) if packed is not None)
        if len(members) < 1000:
            return
