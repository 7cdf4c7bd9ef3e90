"""Publishes letters that are due and whose broker is no Redis: claimed, published, confirmed, and only then removed.

So each is published at least once, and by one keeper or worker at a time. Two copies of one letter have one tag, and
leave one letter (letters/foreign.py).
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any, Protocol

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import SentDue
from celeray.scheduler.letters.envelope import UnreadableLetterError
from celeray.scheduler.letters.foreign import Outgoing, outgoing_of
from celeray.scheduler.letters.producing import RefusedLetterError, UnansweredError
from celeray.scheduler.letters.record import unpacked
from celeray.scheduler.letters.scripts import PART_BYTES, letter_script
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

CLAIM_S = 60.0
"""After so long somebody else publishes what was claimed and is still there."""
PUBLISH_S = 20.0
"""So long one publishes of what was claimed, which leaves time for the last one's confirmation."""
PART_MOST = 50
PARTS_A_RUN = 200
"""10,000 letters that are due at once are published in one run."""
AGAIN_S = 5.0
"""When a broker did not answer."""


class Publishes(Protocol):
    """What an outbox publishes with: `letters.producing.Producer`."""

    def publish(self, letter: Outgoing) -> None: ...

    def close(self) -> None: ...


class Outbox:
    """Of one app, by one thread."""

    def __init__(self, client: Any, keys: Keys, producer: Publishes) -> None:
        """
        Args:
            client: of celeray's Redis, without a key prefix of its own.
        """
        self._client = client
        self._keys = keys
        self._producer = producer

    def send_due(self, now: float | None = None) -> SentDue:
        """Publish what is due, at most 10,000 letters, or until the broker does not answer.

        Args:
            now: seconds since the epoch. None: by the server's clock.

        Raises:
            redis.RedisError: Redis does not answer; what was published and not removed is published again.
        """
        sent = parked = 0
        try:
            for _ in range(PARTS_A_RUN):
                claimed = self._claim(now)
                ends = [self._send(letter, raw) for letter, raw in self._in_time(claimed)]
                sent += ends.count("sent") + ends.count("redriven")
                parked += ends.count("parked")
                if not claimed or "later" in ends:
                    break
        finally:
            self._producer.close()
        return SentDue(sent, parked)

    def _claim(self, now: float | None) -> list[tuple[bytes, bytes]]:
        args: list[Argument] = ["" if now is None else now, CLAIM_S, PART_MOST, PART_BYTES]
        found = letter_script("claim_due")(self._client, self._keys.lease_book(), args)
        return list(zip(found[::2], found[1::2], strict=True))

    @staticmethod
    def _in_time(claimed: list[tuple[bytes, bytes]]) -> Any:
        ends_at = time.monotonic() + PUBLISH_S
        for item in claimed:
            if time.monotonic() > ends_at:
                return
            yield item

    def _send(self, letter: bytes, raw: bytes) -> str:
        """How it ended, as close_due.lua has it; 'gone' where the letter was changed meanwhile."""
        end, said = self._publish(letter, raw)
        digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        args: list[Argument] = [letter, digest, end, said]
        done = letter_script("close_due")(self._client, self._keys.lease_book(), args)
        return end if done or end == "later" else "gone"

    def _publish(self, letter: bytes, raw: bytes) -> tuple[str, str]:
        try:
            outgoing = outgoing_of(letter.decode("utf-8", "replace"), unpacked(letter, raw), self._keys)
            self._producer.publish(outgoing)
        except (UnreadableLetterError, RefusedLetterError) as error:
            logger.error("letter %r can't be published, it is parked: %s", letter, error)
            return "parked", f"can't be published: {error}"[:500]
        except UnansweredError as error:
            logger.warning("the broker does not take letter %r, trying on: %s", letter, error)
            return "later", str(AGAIN_S)
        return ("redriven" if outgoing.redriven else "sent"), ""
