"""Sends letters again whose retry policy wants it now: the message as it was, with its attempts in a header.

The script compares what was read, so any number of keepers and workers may do it at once.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.keepers import server_time
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import HEADER
from celeray.scheduler.letters.envelope import UnreadableLetterError, read_envelope, renewed, with_header
from celeray.scheduler.letters.parcels import list_of
from celeray.scheduler.letters.record import attempts_in, unpacked
from celeray.scheduler.letters.scripts import PART_BYTES, PART_MOST, letter_script
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

PARTS_A_RUN = 50
"""10,000 letters that are due at once are sent in one run."""
NOWHERE = 0
"""Number of the list of what can't be sent."""


@dataclass(frozen=True, slots=True)
class SentDue:
    """What became of the letters that were due."""

    sent: int = 0
    parked: int = 0
    """They can't be sent: no worker could read them, or nobody knows their queue."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    letter: bytes
    digest: str
    list: bytes | None
    """None: nobody knows."""
    message: bytes


def send_due(client: Any, keys: Keys, now: float | None = None, *, dedup_hold_max_s: int) -> SentDue:
    """Send what is due, at most 10,000 letters. Idempotent.

    Args:
        client: without a key prefix of its own.
        now: seconds since the epoch. None: by the server's clock.

    Raises:
        redis.RedisError: Redis does not answer; what was sent so far is sent.
    """
    at = server_time(client) if now is None else now
    records, due = keys.scheduled()
    sent = parked = 0
    for _ in range(PARTS_A_RUN):
        letters = client.zrangebyscore(due, "-inf", at, start=0, num=PART_MOST)
        if not letters:
            break
        parcels = _parcels(letters, client.hmget(records, letters), keys)
        verdicts = _send(client, keys, parcels, dedup_hold_max_s)
        sent += verdicts.count(b"sent")
        parked += verdicts.count(b"parked")
        if len(letters) < PART_MOST and len(parcels) == len(letters):
            break
    return SentDue(sent, parked)


def _parcels(letters: Sequence[bytes], found: Sequence[bytes | None], keys: Keys) -> list[_Parcel]:
    """As many as one run of the script may take."""
    parcels: list[_Parcel] = []
    size = 0
    for letter, raw in zip(letters, found, strict=True):
        size += len(raw or b"")
        if parcels and size > PART_BYTES:
            break
        parcels.append(_parcel(letter, raw, keys))
    return parcels


def _parcel(letter: bytes, raw: bytes | None, keys: Keys) -> _Parcel:
    if raw is None:
        # Sent or discarded meanwhile.
        return _Parcel(letter, "", None, b"")
    digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    parked = unpacked(letter, raw)
    try:
        envelope = read_envelope(parked.message)
        attempts = attempts_in(parked, envelope.document["headers"])
        message = with_header(renewed(envelope, str(uuid.uuid4())), HEADER, attempts.header())
        return _Parcel(letter, digest, list_of(parked, envelope, keys), message)
    except UnreadableLetterError as error:
        logger.error("message %r can't be sent again, it is parked: %s", letter, error)
        return _Parcel(letter, digest, None, b"")


def _send(client: Any, keys: Keys, parcels: Sequence[_Parcel], dedup_hold_max_s: int) -> list[bytes]:
    if not parcels:
        return []
    lists: list[Any] = list(dict.fromkeys(parcel.list for parcel in parcels if parcel.list is not None))
    book: list[Any] = keys.lease_book()
    args: list[Argument] = [dedup_hold_max_s * 1000]
    # In front of each other, so the one that is due first is pushed last.
    for parcel in reversed(parcels):
        number = NOWHERE if parcel.list is None else len(book) + 1 + lists.index(parcel.list)
        args += [parcel.letter, parcel.digest, number, parcel.message]
    verdicts: list[bytes] = letter_script("send_due")(client, book + lists, args)
    return verdicts
