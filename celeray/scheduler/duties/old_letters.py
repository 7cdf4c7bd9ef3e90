"""Dead letters are kept for a time and up to a number; the oldest go first, counted and logged."""

from __future__ import annotations

import logging

from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.store import Letters

logger = logging.getLogger(__name__)


class OldLetters:
    """Forgets what is too old or too much."""

    name = "old-letters"
    every_s = 60.0

    def __init__(self, letters: Letters, *, retention_s: float, most: int) -> None:
        self._discard = Discard(letters)
        self._retention_s = retention_s
        self._most = most

    def run_once(self, now: float) -> str:
        old, extra = self._discard.trim(before=now - self._retention_s, most=self._most)
        parts = [
            (old, f"older than {self._retention_s:g} s"),
            (extra, f"more than the {self._most} that are kept"),
        ]
        for count, why in parts:
            if count:
                logger.warning("%d dead letters are forgotten, %s", count, why)
        return ", ".join(f"{count} dead letters forgotten, {why}" for count, why in parts if count)
