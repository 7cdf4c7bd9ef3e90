"""Sends dead letters again: the original bytes to the list that they were on, under a new delivery tag.

The letter is removed and the message pushed by one script, so pressing twice sends once. Callers are REST and the CLI.
A letter whose broker is no Redis becomes due at once instead, and whoever is connected to that broker publishes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from celeray.scheduler.audit import checked_by, checked_why, record_fields
from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.errors import UnknownQueueError
from celeray.scheduler.letters.parcels import Packer, Parcel, UnsendableLetterError
from celeray.scheduler.letters.record import field_of
from celeray.scheduler.letters.scripts import PART_MOST, letter_script, trail_arguments
from celeray.scheduler.letters.selecting import SKIPPED_SHOWN, Selection, Skipped, Tally
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.requests import parse_layer
from celeray.scheduler.settings import Settings

REDRIVE_WHY = "redriven"
"""What the trail says where no reason was given."""
GONE = "not among the dead letters"
RATE_MAX = 100_000.0
TICK_S = 0.2
"""A rate is kept by parts of at most so much time."""
EDITS_SHOWN = 100


class RedriveTerms(BaseModel):
    """What is asked of a redrive besides which letters."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool = False
    """Only count, and say what would change."""
    rate: float | None = Field(default=None, gt=0, le=RATE_MAX)
    """Letters a second at most. None: as fast as it goes."""
    queue: str | None = None
    """Send to this queue. None: to the one that they came from."""
    priority: int | None = Field(default=None, ge=1, le=10)
    """Send at this priority, 10 most urgent. None: at their own."""
    request: Mapping[str, Any] | None = None
    """Resource requirements that go over each message's own, as users write them. None: as they are."""

    @property
    def words(self) -> str:
        """The edits in words, at most about 200 characters; empty for none."""
        queue = "" if self.queue is None else f", to {self.queue}"
        priority = "" if self.priority is None else f", at priority {self.priority}"
        pairs = " ".join(f"{key}={value}" for key, value in (self.request or {}).items())
        asked = f", asking {pairs}" if pairs else ""
        return queue + priority + "".join(one if one.isprintable() else "?" for one in asked)[:200]

    def check(self, settings: Settings) -> None:
        """Return if they can be met.

        Raises:
            UnknownQueueError: `queue` is none of the settings.
            RequirementError: a key of `request` is unknown, or a value out of its bound.
        """
        if self.queue is not None and self.queue not in settings.queues:
            raise UnknownQueueError(self.queue, settings.queues)
        if self.request is not None:
            parse_layer(self.request)


class ShownEdit(BaseModel):
    """What becomes of one letter's resource requirements."""

    model_config = ConfigDict(frozen=True)

    id: str
    before: dict[str, Any]
    """As the message carries them; what its task declares is not known here."""
    after: dict[str, Any]


class Redriven(BaseModel):
    """What became of the letters."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    matched: int
    sent: int
    """With `dry_run`: would be sent."""
    to_publish: int = 0
    """How many of them are due now, since their broker is no Redis: a keeper or worker of the app publishes them."""
    skipped: int
    skipped_by_reason: dict[str, int]
    skipped_letters: tuple[Skipped, ...]
    """The first 100."""
    edits: tuple[ShownEdit, ...] = ()
    """Of the first 100 that were sent, or would be; empty where no request was asked for."""


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
            UnknownQueueError, RequirementError: as `RedriveTerms.check`.
            redis.RedisError: Redis does not answer; what was sent so far is sent, and doing it again sends the rest.
        """
        by, why = checked_by(by), checked_why(why)
        terms.check(self._settings)
        ids, tally, edits = selection.resolve(self._letters), Tally(), list[ShownEdit]()
        packer = Packer(
            self._letters.keys,
            self._settings,
            queue=terms.queue,
            priority=terms.priority,
            request=terms.request,
        )
        pace = _Pace(None if terms.dry_run else terms.rate, self._clock, self._sleep)
        for part in self._letters.parts(ids, pace.most):
            pace.wait_for(len(part))
            parcels = self._parcels(part, packer, tally)
            if parcels:
                sent = self._send(parcels, terms, self._record(selection, terms, by, why), tally)
                edits = [*edits, *sent][:EDITS_SHOWN]
        return Redriven(
            dry_run=terms.dry_run,
            matched=len(ids),
            sent=tally.done,
            to_publish=tally.to_publish,
            skipped=len(tally.skipped),
            skipped_by_reason=tally.reasons,
            skipped_letters=tuple(tally.skipped[:SKIPPED_SHOWN]),
            edits=tuple(edits),
        )

    def _record(self, selection: Selection, terms: RedriveTerms, by: str, why: str) -> dict[str, str]:
        target, at = f"dead letters {selection}{terms.words}", self._clock.time()
        return record_fields(at=at, by=by, action="redrive", target=target, why=why)

    def _parcels(self, ids: list[str], packer: Packer, tally: Tally) -> list[Parcel]:
        found: list[Parcel] = []
        for letter_id, raw in zip(ids, self._letters.records(ids), strict=True):
            if raw is None:
                tally.skip(letter_id, GONE)
                continue
            try:
                found.append(packer.parcel(letter_id, raw))
            except UnsendableLetterError as error:
                tally.skip(letter_id, str(error))
        return found

    def _send(
        self, parcels: list[Parcel], terms: RedriveTerms, record: dict[str, str], tally: Tally
    ) -> list[ShownEdit]:
        """Returns the edits of those that were sent."""
        lists = list(dict.fromkeys(parcel.list for parcel in parcels))
        keys: list[Any] = [*self._letters.keys.lease_book(), self._letters.keys.audit(), *lists]
        first = len(keys) - len(lists) + 1
        args: list[Any] = [
            int(terms.dry_run),
            self._settings.dedup_hold_max_s * 1000,
            *trail_arguments(record),
        ]
        for parcel in parcels:
            number, how = first + lists.index(parcel.list), "publish" if parcel.published else "push"
            args += [field_of(parcel.letter_id), parcel.digest, number, parcel.message, how]
        verdicts = letter_script("redrive")(self._letters.client, keys, args)
        edits: list[ShownEdit] = []
        for parcel, verdict in zip(parcels, verdicts, strict=True):
            if verdict == b"sent":
                tally.done += 1
                tally.to_publish += parcel.published
                edits += _shown(parcel)
            else:
                why = GONE if verdict == b"gone" else verdict.decode("utf-8", "replace")
                tally.skip(parcel.letter_id, why)
        return edits


def _shown(parcel: Parcel) -> list[ShownEdit]:
    change = parcel.request
    if change is None:
        return []
    return [ShownEdit(id=parcel.letter_id, before=dict(change.before), after=dict(change.after))]


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
