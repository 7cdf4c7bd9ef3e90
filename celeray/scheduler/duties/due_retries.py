"""Failed tasks whose retry policy wants it now are sent to their queues again."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import send_due


class DueRetries:
    """Workers on the leased transport whose app has retry policies do the same, every few seconds."""

    name = "due-retries"
    every_s = 1.0

    def __init__(self, client: Any, keys: Keys, *, dedup_hold_max_s: int) -> None:
        self._client = client
        self._keys = keys
        self._dedup_hold_max_s = dedup_hold_max_s

    def run_once(self, now: float) -> str:
        done = send_due(self._client, self._keys, now, dedup_hold_max_s=self._dedup_hold_max_s)
        parts = [(done.sent, "tasks sent again"), (done.parked, "parked, since they can't be sent")]
        return ", ".join(f"{count} {what}" for count, what in parts if count)
