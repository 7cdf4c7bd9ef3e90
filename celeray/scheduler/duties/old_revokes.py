"""Revokes are forgotten after three hours."""

from __future__ import annotations

from celeray.scheduler.revoking import RevokeBook


class OldRevokes:
    """So does every new revoke; this is for the last ones."""

    name = "old-revokes"
    every_s = 60.0

    def __init__(self, book: RevokeBook) -> None:
        self._book = book

    def run_once(self, now: float) -> str:
        forgotten = self._book.trim(now)
        return f"{forgotten} revokes forgotten" if forgotten else ""
