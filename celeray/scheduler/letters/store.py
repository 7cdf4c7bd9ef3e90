"""Reads the dead letters: lists with filters and counts, one with everything, and the records of several."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, Field

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.record import (
    Letter,
    LetterDetail,
    LetterState,
    detail_of,
    field_of,
    letter_of,
    shown_reason,
    unpacked,
)
from celeray.scheduler.letters.scripts import PART_BYTES, PART_MOST, letter_script

_PLACES = {
    LetterState.PARKED: "parked",
    LetterState.SCHEDULED: "scheduled",
    LetterState.REDRIVEN: "past",
    LetterState.DISCARDED: "past",
}


class LetterFilter(BaseModel):
    """Which letters. What is None is not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str | None = Field(default=None, max_length=500)
    task: str | None = Field(default=None, max_length=500)
    """A pattern of task names with *, ? and [...]. A letter that names no task has the name ""."""
    task_id: str | None = Field(default=None, max_length=500)
    reason: str | None = Field(default=None, max_length=500)
    exception: str | None = Field(default=None, max_length=500)
    """A pattern of class names, with or without their modules, that the last attempt's exception has."""
    state: LetterState = LetterState.PARKED
    since: float | None = Field(default=None, allow_inf_nan=False)
    """Parked at this time or later, in seconds since the epoch."""
    until: float | None = Field(default=None, allow_inf_nan=False)
    """Parked before this time."""

    @property
    def empty(self) -> bool:
        """Whether it leaves nothing out."""
        return self == LetterFilter()

    def matches(self, letter: Letter) -> bool:
        """Whether the letter is one of those."""
        return (
            self.queue in (None, letter.queue)
            and self.reason in (None, letter.reason)
            and self.state is letter.state
            and self.task_id in (None, letter.task_id)
            and (self.exception is None or _is_named(letter.exception, self.exception))
            and (self.task is None or fnmatchcase(letter.task or "", self.task))
            and (self.since is None or letter.parked_at >= self.since)
            and (self.until is None or letter.parked_at < self.until)
        )

    def __str__(self) -> str:
        said = self.model_dump(exclude_defaults=True, mode="json")
        return " ".join(f"{key}={value}" for key, value in said.items())


class LetterPage(BaseModel):
    """Letters, newest first, and how many there are by what."""

    model_config = ConfigDict(frozen=True)

    letters: tuple[Letter, ...]
    total: int
    """That the filter matches, on all pages."""
    by_reason: dict[str, int]
    by_queue: dict[str, int]
    """Empty is the name of those whose queue is unknown."""
    next: str | None = None
    """Cursor of the next page. None: this is the last one."""


class Letters:
    """The parked messages of one broker. Methods raise `redis.RedisError` when Redis does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        """
        Args:
            client: of the broker's database, without a key prefix of its own.
        """
        self.client: Any = client
        self.keys = keys

    def count(self) -> int:
        """All that are parked."""
        return int(self.client.hlen(self.keys.parked()))

    def count_scheduled(self) -> int:
        """All that wait until they are sent again."""
        return int(self.client.hlen(self.keys.scheduled()[0]))

    def walk(self, state: LetterState = LetterState.PARKED) -> Iterator[Letter]:
        """Each letter of a state that is there the whole time once, in no order. Reads all of them, without bodies."""
        seen: set[bytes] = set()
        cursor: Any = 0
        while True:
            args = [cursor, PART_MOST, _PLACES[state]]
            cursor, *found = letter_script("scan")(self.client, self.keys.lease_book(), args)
            for field, raw, size in zip(found[::3], found[1::3], found[2::3], strict=True):
                if field not in seen:
                    seen.add(field)
                    letter = letter_of(unpacked(field, raw, state), self.keys, size=int(size))
                    if letter.state is state:
                        yield letter
            if int(cursor) == 0:
                return

    def reasons(self) -> dict[str, int]:
        """How many there are by reason. Cheap: only the reasons are sent."""
        found: dict[bytes, bytes] = {}
        cursor: Any = 0
        while True:
            cursor, *items = letter_script("reasons")(
                self.client, self.keys.lease_book(), [cursor, PART_MOST]
            )
            found.update(zip(items[::2], items[1::2], strict=True))
            if int(cursor) == 0:
                return _counts(shown_reason(reason) for reason in found.values())

    def page(self, chosen: LetterFilter, limit: int, cursor: str | None = None) -> LetterPage:
        """The newest letters that match, or those after a page.

        Raises:
            ValueError: `cursor` is none of ours.
        """
        after = None if cursor is None else _parse(cursor)
        matching = [letter for letter in self.walk(chosen.state) if chosen.matches(letter)]
        left = matching if after is None else [letter for letter in matching if _rank(letter) < after]
        shown = heapq.nlargest(limit + 1, left, key=_rank)
        last = shown[limit - 1] if len(shown) > limit else None
        return LetterPage(
            letters=tuple(shown[:limit]),
            total=len(matching),
            by_reason=_counts(letter.reason for letter in matching),
            by_queue=_counts(letter.queue or "" for letter in matching),
            next=None if last is None else f"{last.parked_at!r}~{last.id}",
        )

    def get(self, letter_id: str) -> LetterDetail | None:
        """One letter. None: it is not there, or not any more."""
        field = field_of(letter_id)
        for key, state in (
            (self.keys.parked(), LetterState.PARKED),
            (self.keys.scheduled()[0], LetterState.SCHEDULED),
            (self.keys.past_letters(), LetterState.REDRIVEN),
        ):
            if (raw := self.client.hget(key, field)) is not None:
                return detail_of(unpacked(field, raw, state), self.keys)
        return None

    def matching(self, chosen: LetterFilter) -> list[str]:
        """Ids of all that match, the oldest first, which is the order in which they are sent again."""
        found = sorted((letter for letter in self.walk(chosen.state) if chosen.matches(letter)), key=_rank)
        return [letter.id for letter in found]

    def parts(self, ids: Iterable[str], most: int = PART_MOST) -> Iterator[list[str]]:
        """The ids in their order, in parts that one run of a script may take, by number and bytes."""
        every = list(dict.fromkeys(ids))
        for start in range(0, len(every), PART_MOST):
            block = every[start : start + PART_MOST]
            part: list[str] = []
            size = 0
            for letter_id, length in zip(block, self._lengths(block), strict=True):
                if part and (len(part) >= most or size + length > PART_BYTES):
                    yield part
                    part, size = [], 0
                part.append(letter_id)
                size += length
            yield part

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """The records of those that are parked or wait, as they are; None for one that is not there."""
        fields = [field_of(item) for item in ids]
        parked: list[bytes | None] = self.client.hmget(self.keys.parked(), fields)
        if None not in parked:
            return parked
        waiting: list[bytes | None] = self.client.hmget(self.keys.scheduled()[0], fields)
        return [one if one is not None else other for one, other in zip(parked, waiting, strict=True)]

    def _lengths(self, ids: Sequence[str]) -> list[int]:
        with self.client.pipeline(transaction=False) as pipe:
            for letter_id in ids:
                pipe.hstrlen(self.keys.parked(), field_of(letter_id))
                pipe.hstrlen(self.keys.scheduled()[0], field_of(letter_id))
            lengths = pipe.execute()
        return [int(one) + int(other) for one, other in zip(lengths[::2], lengths[1::2], strict=True)]


def _is_named(exception: str | None, pattern: str) -> bool:
    name = exception or ""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


def _counts(names: Iterable[str]) -> dict[str, int]:
    """The most first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _rank(letter: Letter) -> tuple[float, str]:
    return letter.parked_at, letter.id


def _parse(cursor: str) -> tuple[float, str]:
    at, mark, letter_id = cursor.partition("~")
    try:
        found = float(at)
    except ValueError:
        found = math.nan
    if not mark or not math.isfinite(found):
        raise ValueError(f"cursor={cursor!r}: expected the `next` of the page before")
    return found, letter_id
