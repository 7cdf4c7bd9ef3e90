"""Sends dead letters again: the original bytes to the list that they were on, under a new delivery tag.

The letter is removed and the message pushed by one script, so pressing twice sends once. Callers are REST and the CLI.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from celeray.scheduler.audit import checked_by, checked_why, record_fields
from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.errors import UnknownQueueError
from celeray.scheduler.keys import BROKER_PRIORITIES
from celeray.scheduler.letters.envelope import Envelope, UnreadableLetterError, edited, read_envelope, renewed
from celeray.scheduler.letters.record import Parked, field_of, place_of, unpacked
from celeray.scheduler.letters.scripts import PART_MOST, letter_script, trail_arguments
from celeray.scheduler.letters.selecting import SKIPPED_SHOWN, Selection, Skipped, Tally
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.priorities import to_broker
from celeray.scheduler.settings import Settings

REDRIVE_WHY = "redriven"
"""What the trail says where no reason was given."""
GONE = "not among the dead letters"
RATE_MAX = 100_000.0
TICK_S = 0.2
"""A rate is kept by parts of at most so much time."""


class RedriveTerms(BaseModel):
    """What is asked of a redrive besides which letters."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool = False
    """Only count."""
    rate: float | None = Field(default=None, gt=0, le=RATE_MAX)
    """Letters a second at most. None: as fast as it goes."""
    queue: str | None = None
    """Send to this queue. None: to the one that they came from."""
    priority: int | None = Field(default=None, ge=1, le=10)
    """Send at this priority, 10 most urgent. None: at their own."""

    @property
    def place(self) -> str:
        """The edits in words; empty for none."""
        queue = "" if self.queue is None else f", to {self.queue}"
        return queue + ("" if self.priority is None else f", at priority {self.priority}")


class Redriven(BaseModel):
    """What became of the letters."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    matched: int
    sent: int
    """With `dry_run`: would be sent."""
    skipped: int
    skipped_by_reason: dict[str, int]
    skipped_letters: tuple[Skipped, ...]
    """The first 100."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A letter, ready to be pushed."""

    letter_id: str
    digest: str
    """SHA-1 of its record, so that the script sends what was read and nothing else."""
    list: bytes
    message: bytes


class Redrive:
    """Sends letters of one broker again."""

    def __init__(
        self,
        letters: Letters,
        settings: Settings,
        clock: Clock | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._letters = letters
        self._settings = settings
        self._clock = clock or SystemClock()
        self._sleep = sleep

    def run(self, selection: Selection, terms: RedriveTerms, *, by: str, why: str = REDRIVE_WHY) -> Redriven:
        """Send the letters, the oldest first. A record in the trail goes with each part, in the same step.

        Raises:
            OperatorInputError: the selection says nothing, or `by` or `why` can't be kept.
            UnknownQueueError: `terms.queue` is none of the settings.
            redis.RedisError: Redis does not answer; what was sent so far is sent, and doing it again sends the rest.
        """
        by, why = checked_by(by), checked_why(why)
        if terms.queue is not None and terms.queue not in self._settings.queues:
            raise UnknownQueueError(terms.queue, self._settings.queues)
        ids, tally = selection.resolve(self._letters), Tally()
        pace = _Pace(None if terms.dry_run else terms.rate, self._clock, self._sleep)
        for part in self._letters.parts(ids, pace.most):
            pace.wait_for(len(part))
            parcels = self._parcels(part, terms, tally)
            if parcels:
                self._send(parcels, terms, self._record(selection, terms, by, why), tally)
        return Redriven(
            dry_run=terms.dry_run,
            matched=len(ids),
            sent=tally.done,
            skipped=len(tally.skipped),
            skipped_by_reason=tally.reasons,
            skipped_letters=tuple(tally.skipped[:SKIPPED_SHOWN]),
        )

    def _record(self, selection: Selection, terms: RedriveTerms, by: str, why: str) -> dict[str, str]:
        target, at = f"dead letters {selection}{terms.place}", self._clock.time()
        return record_fields(at=at, by=by, action="redrive", target=target, why=why)

    def _parcels(self, ids: list[str], terms: RedriveTerms, tally: Tally) -> list[_Parcel]:
        found: list[_Parcel] = []
        for letter_id, raw in zip(ids, self._letters.records(ids), strict=True):
            if raw is None:
                tally.skip(letter_id, GONE)
                continue
            try:
                found.append(self._parcel(letter_id, raw, terms))
            except UnreadableLetterError as error:
                tally.skip(letter_id, f"unreadable: {error}")
        return found

    def _parcel(self, letter_id: str, raw: bytes, terms: RedriveTerms) -> _Parcel:
        parked = unpacked(field_of(letter_id), raw)
        envelope, tag = read_envelope(parked.message), str(uuid.uuid4())
        if terms.queue is None and terms.priority is None:
            message = renewed(envelope, tag)
        else:
            message = edited(envelope, tag, queue=terms.queue, priority=terms.priority)
        digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        return _Parcel(letter_id, digest, self._list(parked, envelope, terms), message)

    def _list(self, parked: Parked, envelope: Envelope, terms: RedriveTerms) -> bytes:
        """Where to push. Raises `UnreadableLetterError` where nobody says."""
        queue, step = place_of(parked, self._letters.keys)
        known = queue is not None
        if not known:
            # What a stock worker held names no list.
            info = envelope.properties["delivery_info"]
            queue, step = info.get("routing_key"), _step(envelope.properties.get("priority"))
            if terms.queue is None and (info.get("exchange") or not isinstance(queue, str) or not queue):
                raise UnreadableLetterError("its list is unknown; name a queue")
        if known and terms.queue is None and terms.priority is None:
            return parked.list
        if terms.priority is not None:
            step = to_broker(terms.priority, lowest_first=True)
        return self._letters.keys.queue_lists(terms.queue or str(queue))[step].encode()

    def _send(
        self, parcels: list[_Parcel], terms: RedriveTerms, record: dict[str, str], tally: Tally
    ) -> None:
        lists = list(dict.fromkeys(parcel.list for parcel in parcels))
        keys: list[Any] = [*self._letters.keys.lease_book(), self._letters.keys.audit(), *lists]
        first = len(keys) - len(lists) + 1
        args: list[Any] = [
            int(terms.dry_run),
            self._settings.dedup_hold_max_s * 1000,
            *trail_arguments(record),
        ]
        for parcel in parcels:
            number = first + lists.index(parcel.list)
            args += [field_of(parcel.letter_id), parcel.digest, number, parcel.message]
        verdicts = letter_script("redrive")(self._letters.client, keys, args)
        for parcel, verdict in zip(parcels, verdicts, strict=True):
            if verdict == b"sent":
                tally.done += 1
            else:
                tally.skip(
                    parcel.letter_id, GONE if verdict == b"gone" else verdict.decode("utf-8", "replace")
                )


class _Pace:
    """Bounds how many are sent a second."""

    def __init__(self, rate: float | None, clock: Clock, sleep: Callable[[float], object]) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock.monotonic()
        self.most = PART_MOST if rate is None else max(1, min(PART_MOST, int(rate * TICK_S)))

    def wait_for(self, count: int) -> None:
        """Return when so many more may be sent."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        if self._free_at > now:
            self._sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + count / self._rate


def _step(priority: Any) -> int:
    """The list of a broker priority, with the ten steps that celeray sets."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        return 0
    return min(BROKER_PRIORITIES[-1], max(0, priority))
