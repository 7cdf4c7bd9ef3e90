"""Bridges and keepers that have not written for an hour leave the status."""

from __future__ import annotations

from celeray.scheduler.keepers import forget_gone
from celeray.scheduler.status_store import StatusStore


class GoneWriters:
    """What they counted stays in the sums."""

    name = "gone-writers"
    every_s = 60.0

    def __init__(self, store: StatusStore) -> None:
        self._store = store

    def run_once(self, now: float) -> str:
        self._store.forget_gone(now)
        gone = forget_gone(self._store.client, self._store.keys, now)
        return f"{gone} keepers forgotten" if gone else ""
