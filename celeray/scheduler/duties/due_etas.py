"""Messages with a far eta go back to their lists shortly before it."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.scheduling import bring_back


class DueEtas:
    """Workers on the leased transport do the same, every few seconds."""

    name = "due-etas"
    every_s = 1.0

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def run_once(self, now: float) -> str:
        moved = bring_back(self._client, self._keys, now)
        return f"{moved} messages put back" if moved else ""
