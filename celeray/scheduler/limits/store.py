"""The limits in Redis: letting a message pass, giving room back, and looking at what is due."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.limits.gates import Gate
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.scripts import Argument, Script, script

CALL_S = 10.0
"""So long a message that was put back has its room kept. After that it still has its rank, when it is taken."""
HEAL_S = 5.0
"""Gates without room are looked at so often, for workers that died without a word."""
GATES_A_SWEEP = 100
"""Redis serves nobody else during a script: about 5 ms for so many."""
RELEASES_A_SCRIPT = 100


class Verdict(IntEnum):
    """What became of a message at its gates."""

    PASSED = 1
    WAITS = 0
    """Kept at one of them. Its lease is given up."""
    LOST = -1
    """Its lease was lost before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To an attempt to pass."""

    verdict: Verdict
    due_s: float | None
    """Seconds until the first gate of all is due, where messages wait at one of these. None: none does."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a round did."""

    looked_at: int = 0
    """Gates."""
    other_sweeps: bool = False
    due_s: float | None = None
    """Seconds until the next gate is due. None: there is none, or another sweeps."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a message has at a gate and is to be given back."""

    gate_id: str
    tag: str
    token: str = ""
    """Under which it passed. Empty: it was called and will not come."""


def limit_script(name: str) -> Script:
    """The script of `lua/NAME.lua` here."""
    return script(name, "celeray.scheduler.limits", ("gates",))


class LimitStore:
    """Thread-safe as far as the client is. Every method raises `redis.RedisError` when Redis does not answer."""

    def __init__(self, client: Any, keys: Keys, *, call_s: float = CALL_S, heal_s: float = HEAL_S) -> None:
        """
        Args:
            client: of the broker's database, without a key prefix of its own.
        """
        self._client = client
        self._keys = [*keys.lease_book(), *keys.limit_book()]
        self._times: tuple[Argument, ...] = (call_s, heal_s)
        self.name = uuid.uuid4().hex[:12]
        """As a sweeper."""

    def acquire(self, lease: Lease, gates: Sequence[Gate], *, level: int, task_id: str) -> Answer:
        """Let a held message pass all gates; or keep it at one of them, which ends its lease.

        Args:
            level: 0 to 9, 0 most urgent.
        """
        pairs = [text for gate in gates for text in (gate.id, gate.document)]
        args = [lease.tag, lease.token, self.name, *self._times, level, task_id, *pairs]
        verdict, due = limit_script("acquire")(self._client, self._keys, args)
        return Answer(Verdict(verdict), _seconds(due))

    def release(self, rooms: Iterable[Room]) -> float | None:
        """Give room back, and call who is next. Returns as `Answer.due_s`."""
        left, due_s = list(rooms), None
        for start in range(0, len(left), RELEASES_A_SCRIPT):
            part = left[start : start + RELEASES_A_SCRIPT]
            triples = [text for room in part for text in (room.gate_id, room.tag, room.token)]
            found = _seconds(
                limit_script("release")(self._client, self._keys, [self.name, *self._times, *triples])
            )
            due_s = due_s if found is None else found
        return due_s

    def sweep(self) -> Sweep:
        """Look at the gates that are due, at most 100. Idempotent; any number of processes may do it."""
        args = [self.name, *self._times, GATES_A_SWEEP]
        looked_at, due = limit_script("sweep")(self._client, self._keys, args)
        return Sweep(max(0, looked_at), looked_at < 0, _seconds(due))


def _seconds(reply: bytes | str) -> float | None:
    return float(reply) if reply else None
