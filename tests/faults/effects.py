"""The world that tasks change: a Redis of its own, which no fault touches, with one row a task id.

An effect is written under the run's fence, as any store with a conditional update can do it:
`UPDATE rows SET effect = ... WHERE id = ? AND fence = ? AND effect IS NULL`. A run without a fence can't be told from
another, so its effect is written.
"""

from __future__ import annotations

import json
import time
from typing import Any

import redis

from tests.faults.history import Record

_RAISE = """
local row, fence = KEYS[1], ARGV[1]
if redis.call('HEXISTS', row, 'effect') == 1 and fence ~= '' then return 'done' end
local known = redis.call('HGET', row, 'fence')
if fence ~= '' and known and tonumber(known) > tonumber(fence) then return 'stale' end
if fence ~= '' then redis.call('HSET', row, 'fence', fence) end
return 'go'
"""
_WRITE = """
local row, fence = KEYS[1], ARGV[1]
if fence ~= '' then
  if redis.call('HGET', row, 'fence') ~= fence then return 'stale' end
  if redis.call('HEXISTS', row, 'effect') == 1 then return 'done' end
end
redis.call('HINCRBY', row, 'effect', 1)
redis.call('RPUSH', KEYS[2], ARGV[2])
return 'accepted'
"""
RAN_KEYS, STARTED_KEYS = "ran-keys", "started-keys"
LOG = "effects"
"""Every effect in the order in which it was written: the store itself says what was done, not who did it."""


class EffectStore:
    """Answers: `go` and `accepted`; `stale`: a newer run has begun; `done`: an earlier run has written it."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url, decode_responses=True)

    def begin(self, task_id: str, fence: int | None) -> str:
        """A run begins: older ones may write no more."""
        return str(self._client.eval(_RAISE, 1, f"effects:{task_id}", _text(fence)))

    def write(self, task_id: str, fence: int | None, run: str) -> str:
        """The effect itself, once."""
        line = json.dumps(
            {"event": "effect", "at": time.monotonic(), "id": task_id, "fence": fence, "run": run}
        )
        return str(self._client.eval(_WRITE, 2, f"effects:{task_id}", LOG, _text(fence), line))

    def count(self, name: str, task_id: str, fence: int | None, run: str) -> None:
        """A run of a key: each start is counted, and what is done for the key once a task, under its fence."""
        self._client.hincrby(STARTED_KEYS, name, 1)
        if self.begin(task_id, fence) == "go" and self.write(task_id, fence, run) == "accepted":
            self._client.hincrby(RAN_KEYS, name, 1)

    def log(self) -> list[Record]:
        """All that was written."""
        return [json.loads(line) for line in self._client.lrange(LOG, 0, -1)]

    def close(self) -> None:
        self._client.close()


def _text(fence: int | None) -> str:
    return "" if fence is None else str(fence)
