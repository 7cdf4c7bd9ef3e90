"""Runs duties until it is told to stop. Any number of keepers may run: what one has just done the others leave out."""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

import redis

from celeray.scheduler.duties.duty import Duty
from celeray.scheduler.keepers import leave, server_time, write_heartbeat
from celeray.scheduler.keys import Keys

logger = logging.getLogger(__name__)

ROUND_S = 1.0
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
JITTER_MS = 50
"""The key of a duty ends so long before its next turn, so that a keeper is not late for its own."""


def backoff_s(failures: int, chance: float) -> float:
    """How long to wait after so many failed rounds in a row, 1 or more: up to 30 s, at least half of it fixed.

    Args:
        chance: from 0 to 1, so that keepers do not all come back at once.
    """
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + chance / 2)


class Keeper:
    """One process's part in the duties."""

    def __init__(self, client: Any, keys: Keys, duties: Sequence[Duty]) -> None:
        """
        Args:
            client: without a key prefix of its own.
        """
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._client = client
        self._keys = keys
        self._duties = duties
        self._next_at: dict[str, float] = {}

    def run_each(self) -> dict[str, str]:
        """Do every duty once, whoever did it before. What was done by name. Raises `redis.RedisError`."""
        now = server_time(self._client)
        return {duty.name: duty.run_once(now) for duty in self._duties}

    def run_due(self) -> dict[str, str]:
        """Do the duties whose time has come and that no other keeper has just done. Raises `redis.RedisError`."""
        now = server_time(self._client)
        write_heartbeat(self._client, self._keys, self.name, now)
        return {
            duty.name: self._do(duty, now)
            for duty in self._duties
            if now >= self._next_at.get(duty.name, 0.0) and self._claims(duty, now)
        }

    def _claims(self, duty: Duty, now: float) -> bool:
        self._next_at[duty.name] = now + duty.every_s
        lives_ms = max(1, int(duty.every_s * 1000) - JITTER_MS)
        return bool(self._client.set(self._keys.duty(duty.name), self.name, nx=True, px=lives_ms))

    def _do(self, duty: Duty, now: float) -> str:
        try:
            done = duty.run_once(now)
        except (redis.RedisError, OSError):
            raise
        except Exception:
            # One duty that can't be done must not keep the others from being done.
            logger.exception("duty %s failed", duty.name)
            return "failed"
        if done:
            logger.info("%s: %s", duty.name, done)
        return done

    def run(self, wait: Callable[[float], bool]) -> None:
        """Rounds until `wait`, which sleeps for the given seconds, returns True."""
        failures = 0
        pause_s = 0.0
        while not wait(pause_s):
            try:
                self.run_due()
            except (redis.RedisError, OSError) as error:
                failures += 1
                pause_s = backoff_s(failures, random.random())  # noqa: S311 - no secret
                if failures == 1:
                    logger.warning("Redis does not do its part, trying on: %r", error)
                # A demoted master refuses to write over every connection; a new one finds its successor.
                self._client.connection_pool.disconnect()
                self._next_at.clear()
            else:
                if failures:
                    logger.info("Redis is back after %d rounds", failures)
                failures, pause_s = 0, ROUND_S
        self._leave()

    def _leave(self) -> None:
        try:
            leave(self._client, self._keys, self.name)
        except (redis.RedisError, OSError) as error:
            logger.warning("can't say that this keeper ended: %r", error)
