"""Forgets dead letters for good: by an operator, with a reason and a record in the trail, or by age and number."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.audit import checked_by, checked_why, record_fields
from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.letters.record import field_of
from celeray.scheduler.letters.redrive import GONE
from celeray.scheduler.letters.scripts import letter_script, trail_arguments
from celeray.scheduler.letters.selecting import SKIPPED_SHOWN, Selection, Skipped, Tally
from celeray.scheduler.letters.store import Letters


class Discarded(BaseModel):
    """What became of the letters."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    matched: int
    discarded: int
    """With `dry_run`: would be discarded."""
    skipped: int
    skipped_by_reason: dict[str, int]
    skipped_letters: tuple[Skipped, ...]
    """The first 100."""


class Discard:
    """Discards letters of one broker. Methods raise `redis.RedisError` when Redis does not answer."""

    def __init__(self, letters: Letters, clock: Clock | None = None) -> None:
        self._letters = letters
        self._clock = clock or SystemClock()

    def run(self, selection: Selection, *, by: str, why: str, dry_run: bool = False) -> Discarded:
        """Discard the letters. A record in the trail goes with each part, in the same step.

        Raises:
            OperatorInputError: the selection says nothing, or `by` or `why` can't be kept.
        """
        by, why = checked_by(by), checked_why(why)
        ids, tally = selection.resolve(self._letters), Tally()
        for part in self._letters.parts(ids):
            target, at = f"dead letters {selection}", self._clock.time()
            record = record_fields(at=at, by=by, action="discard", target=target, why=why)
            self._discard(part, record, tally, dry_run=dry_run)
        return Discarded(
            dry_run=dry_run,
            matched=len(ids),
            discarded=tally.done,
            skipped=len(tally.skipped),
            skipped_by_reason=tally.reasons,
            skipped_letters=tuple(tally.skipped[:SKIPPED_SHOWN]),
        )

    def trim(self, *, before: float, most: int) -> tuple[int, int]:
        """Forget what was parked before a time, then the oldest of what is more than `most`. No record in the trail.

        Returns:
            How many were too old, and how many too many.
        """
        if self._letters.count() == 0:
            return 0, 0
        found = [(letter.parked_at, letter.id) for letter in self._letters.walk()]
        # A time that is unknown is 0: no age, and yet the first to go where there are too many.
        old = sorted(item for item in found if 0 < item[0] < before)
        left = (item for item in found if not 0 < item[0] < before)
        extra = heapq.nsmallest(max(0, len(found) - len(old) - most), left)
        return self._forget([item[1] for item in old]), self._forget([item[1] for item in extra])

    def _forget(self, ids: list[str]) -> int:
        tally = Tally()
        for part in self._letters.parts(ids):
            self._discard(part, {}, tally)
        return tally.done

    def _discard(
        self, ids: list[str], record: Mapping[str, str], tally: Tally, *, dry_run: bool = False
    ) -> None:
        keys = [*self._letters.keys.lease_book(), self._letters.keys.audit()]
        arguments = [int(dry_run), *trail_arguments(record), *map(field_of, ids)]
        verdicts = letter_script("discard")(self._letters.client, keys, arguments)
        for letter_id, done in zip(ids, verdicts, strict=True):
            if done:
                tally.done += 1
            else:
                tally.skip(letter_id, GONE)
