"""Which letters a change is for: named ones, those of a filter, or, said in so many words, all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.letters.record import LetterState
from celeray.scheduler.letters.store import LetterFilter, Letters

SKIPPED_SHOWN = 100
CHANGEABLE = frozenset({LetterState.PARKED, LetterState.SCHEDULED})


class Selection(BaseModel):
    """One of the three."""

    model_config = ConfigDict(frozen=True)

    ids: tuple[str, ...] | None = None
    filter: LetterFilter | None = None
    all: bool = False

    def check(self) -> None:
        """Return if it says one thing.

        Raises:
            OperatorInputError: it says none, or more than one, or everything without saying so.
        """
        said = [self.ids is not None, self.filter is not None and not self.filter.empty, self.all]
        if sum(said) != 1 or (self.ids is not None and not self.ids):
            raise OperatorInputError("ids", str(self), "ids, or a filter that is not empty, or all: true")
        if self.filter is not None and self.filter.state not in CHANGEABLE:
            raise OperatorInputError("state", self.filter.state, "parked or scheduled")

    def resolve(self, letters: Letters) -> list[str]:
        """Ids of the letters: as given, or the oldest first.

        Raises:
            OperatorInputError: as `check`.
            redis.RedisError: Redis does not answer.
        """
        self.check()
        if self.ids is not None:
            return list(dict.fromkeys(self.ids))
        return letters.matching(self.filter or LetterFilter())

    def __str__(self) -> str:
        """For the trail: on one line, at most 200 characters."""
        if self.ids is not None:
            text = f"by id: {' '.join(self.ids[:3])}{' ...' if len(self.ids) > 3 else ''}"
        else:
            text = "of all" if self.all else f"by filter: {self.filter or 'none'}"
        return "".join(one if one.isprintable() else "?" for one in text)[:200]


class Skipped(BaseModel):
    """A letter that was left where it is, or was not there."""

    model_config = ConfigDict(frozen=True)

    id: str
    reason: str


class Tally:
    """Counts what becomes of the letters of one change."""

    def __init__(self) -> None:
        self.done = 0
        self.to_publish = 0
        self.skipped: list[Skipped] = []

    def skip(self, letter_id: str, reason: str) -> None:
        """Note one that was not done."""
        self.skipped.append(Skipped(id=letter_id, reason=reason))

    @property
    def reasons(self) -> dict[str, int]:
        """How many were skipped why."""
        return _counted(item.reason for item in self.skipped)


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    # What follows a colon is of one message.
    return dict(Counter(reason.partition(":")[0] for reason in reasons).most_common())
