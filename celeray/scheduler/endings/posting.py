"""The thread of a worker whose broker is no Redis: publishes letters that are due, and forgets what are too many."""

from __future__ import annotations

import logging
import threading
import time

from celeray.scheduler.duties.old_letters import OldLetters
from celeray.scheduler.letters.outbox import Outbox

logger = logging.getLogger(__name__)

EVERY_S = 1.0
FORGET_EVERY_S = 60.0
STOP_S = 15.0
"""How long a stop waits for the message that is being published."""


class Posting(threading.Thread):
    """Goes on until it is stopped, whatever fails."""

    def __init__(self, outbox: Outbox, old_letters: OldLetters) -> None:
        super().__init__(name="celeray-posting", daemon=True)
        self._outbox = outbox
        self._old_letters = old_letters
        self._stopped = threading.Event()
        self._failed = False
        self._forget_at = time.monotonic() + FORGET_EVERY_S

    def run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001 - the next round tries it again
                if not self._failed:
                    logger.warning("letters could not be looked after, trying on: %r", error)
                self._failed = True
            else:
                self._failed = False

    def run_once(self) -> None:
        """What is due. Raises `redis.RedisError`."""
        done = self._outbox.send_due()
        if done.sent or done.parked:
            logger.info("%d letters published, %d parked, since they can't be", done.sent, done.parked)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY_S
            self._old_letters.run_once(time.time())

    def stop(self) -> None:
        """Return when it has ended, or 15 s later: then it ends with the process, and its claims with their time."""
        self._stopped.set()
        if self.is_alive():
            self.join(STOP_S)
