"""What becomes of the claim to publish a chord's body when its owner dies.

The run whose part completes a chord claims its body (celery/backends/redis.py, `on_chord_part_return`), publishes it
and marks the claim as done. Nobody else publishes it as long as the claim stands, which is as long as publishing may be
tried again: minutes. Two things go beyond that here. A process that is told to end while it publishes (SystemExit)
leaves the claim as it is, where Celery marks it as done all the same, and the body would be lost. And a run whose
message's earlier run had the claim takes it over at once: that one has lost its lease, and should it live, the body is
published once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from kombu.utils.encoding import bytes_to_str

from celeray.scheduler.transport.scripts import Script

logger = logging.getLogger(__name__)

CLAIM, CLAIMANT = ".c", ".by"
"""Suffixes of a group's keys: Celery's claim, and the message whose run has it."""
CLAIMANT_TTL_S = 24 * 3600
"""Longer than any claim lives."""
CLAIM_POLL_S = 0.25
_TAKE_OVER = Script(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end\nreturn 0"
)
_message: ContextVar[str] = ContextVar("celeray_chord_message", default="")


class ChordClaimsMixin:
    """Goes before a Celery Redis backend."""

    client: Any

    @contextmanager
    def claiming(self, group_id: str, message: str, *, repeat: bool) -> Iterator[None]:
        """Around the part of a fenced run.

        Args:
            message: of the run, as its fence names it.
            repeat: a run of the message has begun before. Its part is the last that comes, so it waits until the claim
                is done with or expired; an owner that extends it lives.
        """
        if repeat:
            self._await_claim(group_id, message)
        token = _message.set(message)
        try:
            yield
        finally:
            _message.reset(token)

    def _await_claim(self, group_id: str, message: str) -> None:
        backend: Any = self
        key, claimant = (backend.get_key_for_group(group_id, suffix) for suffix in (CLAIM, CLAIMANT))
        while (claim := backend.get(key)) is not None and bytes_to_str(claim) != "done":
            known = backend.get(claimant)
            if known is not None and bytes_to_str(known) == f"{bytes_to_str(claim)}:{message}":
                _TAKE_OVER(self.client, [key], [claim])
                return
            time.sleep(min(CLAIM_POLL_S, max(0, self.client.pttl(key)) / 1000 + 0.001))

    @cached_property
    def _chord_part_return_script(self) -> Any:
        script = super()._chord_part_return_script  # type: ignore[misc] # of the backend

        def count(keys: Sequence[Any], args: Sequence[Any], client: Any) -> Any:
            counted = script(keys=keys, args=args, client=client)
            if (message := _message.get()) and counted[3]:
                # Lost with the process between the two, the claim is waited for, as before.
                client.set(_claimant_of(keys[-1]), f"{args[-1]}:{message}", ex=CLAIMANT_TTL_S)
            return counted

        return count

    @cached_property
    def _chord_cleanup_script(self) -> Any:
        script = super()._chord_cleanup_script  # type: ignore[misc] # of the backend

        def clean(keys: Sequence[Any], args: Sequence[Any], client: Any) -> Any:
            ending = sys.exc_info()[1]
            if ending is not None and not isinstance(ending, Exception):
                logger.warning("told to end while a chord's body was published: another run does it")
                return 1
            cleaned = script(keys=keys, args=args, client=client)
            client.delete(_claimant_of(keys[0]))
            return cleaned

        return clean


def _claimant_of(claim_key: Any) -> Any:
    if isinstance(claim_key, bytes):
        return claim_key.removesuffix(CLAIM.encode()) + CLAIMANT.encode()
    return claim_key.removesuffix(CLAIM) + CLAIMANT
