"""What somebody put on the dead-letter queue becomes dead letters, counted and logged."""

from __future__ import annotations

import logging
from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.front_door import take_in

logger = logging.getLogger(__name__)


class FrontDoor:
    """Empties the dead-letter queue. Nobody else consumes it."""

    name = "front-door"
    every_s = 2.0

    def __init__(self, client: Any, keys: Keys, queue: str) -> None:
        """
        Args:
            queue: its name.
        """
        self._client = client
        self._keys = keys
        self._queue = queue

    def run_once(self, now: float) -> str:
        """Letters have the time of Redis itself, whatever `now` says."""
        del now
        found = take_in(self._client, self._keys, self._queue)
        if not found.letters:
            return ""
        logger.warning("%d messages on %s are dead letters now", found.letters, self._queue)
        unsendable = f", {found.unsendable} of which can't be sent" if found.unsendable else ""
        return f"{found.letters} messages taken in{unsendable}"
