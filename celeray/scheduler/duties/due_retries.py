"""Failed tasks whose retry policy wants it now are sent to their queues again."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import SentDue, send_due
from celeray.scheduler.letters.outbox import Outbox


class DueRetries:
    """Workers on the leased transport whose app has retry policies do the same, every few seconds; where the broker is
    no Redis, all workers with letters do."""

    name = "due-retries"
    every_s = 1.0

    def __init__(
        self, client: Any, keys: Keys, *, dedup_hold_max_s: int, outbox: Outbox | None = None
    ) -> None:
        """
        Args:
            outbox: of an app whose broker is no Redis. None: what is due there is left to others.
        """
        self._client = client
        self._keys = keys
        self._dedup_hold_max_s = dedup_hold_max_s
        self._outbox = outbox

    def run_once(self, now: float) -> str:
        done = send_due(self._client, self._keys, now, dedup_hold_max_s=self._dedup_hold_max_s)
        published = SentDue() if self._outbox is None else self._outbox.send_due(now)
        done = SentDue(done.sent + published.sent, done.parked + published.parked)
        parts = [(done.sent, "tasks sent again"), (done.parked, "parked, since they can't be sent")]
        return ", ".join(f"{count} {what}" for count, what in parts if count)
