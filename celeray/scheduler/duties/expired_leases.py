"""Messages whose lease has ended go back to their lists, and those that never end are parked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.restoring import MESSAGES_A_RUN, Restored, restore_expired

SCRIPTS_A_RUN = 50


class ExpiredLeases:
    """Leases know no clock but the server's at the moment of the script, so `now` is not looked at."""

    name = "expired-leases"
    every_s = 5.0

    def __init__(
        self,
        client: Any,
        keys: Keys,
        options: LeaseOptions,
        *,
        visibility_timeout_s: float,
        priority_steps: Sequence[int],
    ) -> None:
        self._client = client
        self._keys = keys
        self._options = options
        self._visibility_timeout_s = visibility_timeout_s
        self._priority_steps = priority_steps

    def run_once(self, now: float) -> str:
        del now
        total = Restored()
        for _ in range(SCRIPTS_A_RUN):
            found = self._restore()
            total = Restored(
                found.waiting,
                total.restored + found.restored,
                total.poisoned + found.poisoned,
                found.bound,
            )
            if found.restored + len(found.poisoned) < MESSAGES_A_RUN:
                break
        return _in_words(total)

    def _restore(self) -> Restored:
        return restore_expired(
            self._client,
            self._keys,
            self._options,
            visibility_timeout_s=self._visibility_timeout_s,
            priority_steps=self._priority_steps,
        )


def _in_words(found: Restored) -> str:
    if found.waiting:
        return "waits for one lease time, since Redis restarted or was promoted"
    parts = [
        (found.restored, "messages put back"),
        (len(found.poisoned), "parked"),
        # Only kombu can look up the queue of a named exchange; any worker does.
        (len(found.bound), "of named exchanges left to the workers"),
    ]
    return ", ".join(f"{count} {what}" for count, what in parts if count)
