"""Messages that waited for a limit go back to their lists when it lets them."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.limits.store import LimitStore


class DueLimits:
    """Workers on the leased transport do the same as soon as it is time. A worker that does keeps this one idle."""

    name = "due-limits"
    every_s = 2.0

    def __init__(self, client: Any, keys: Keys) -> None:
        self._store = LimitStore(client, keys)

    def run_once(self, now: float) -> str:
        """By the clock of Redis itself, whatever `now` says: rates are counted by it."""
        found = self._store.sweep()
        return f"{found.looked_at} limits looked at" if found.looked_at else ""
