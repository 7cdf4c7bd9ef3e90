"""The fence of a run: who may still write for a message, when two runs of it are under way.

The leased transport numbers every claim; the number is the run's fence, and it rises with every claim of any
message. The worker hands it to the process that runs the task, inside of the request's `delivery_info`, so neither
the message nor what a retry copies from it carries it. In the result backend a record of each task id keeps the
highest fence of each of its messages, and which run completed it; scripts compare there, in the same step as they
write. A message is meant by its kombu delivery tag: a retry has the same task id and is another message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from celery import current_app
from celery.exceptions import Reject

from celeray.scheduler.keys import Keys

LEASE = "celeray_lease"
"""In the `delivery_info` of a request: the delivery tag of its lease, `FENCE:MESSAGE`."""
SENT_AGAIN = "celeray_sent_again"
"""Header of a message whose earlier sending was refused or not confirmed, so there may be two of it."""
RECORD_TTL_MIN_S = 3600
"""A record outlives every repeat of its message, which comes within a lease time of the crash, or after a backlog."""


class Verdict(StrEnum):
    """What the record says about a run that asks or writes."""

    GO = "go"
    LOST = "lost"
    """Another run of the message began later: this one changes nothing any more."""
    DONE = "done"
    """Another run completed the message; its outcome stands."""
    STORED = "stored"
    KEPT = "kept"
    """Nothing was written over a success, or over what a later message of the task id wrote."""
    UNKNOWN = "unknown"
    """Nothing was written: there is a result that no record tells of, as a worker without celeray leaves it."""


class LeaseLostError(Reject):
    """The run lost its lease: its message is somebody else's, so there is nothing to acknowledge and nothing to store.

    A `Reject`, which Celery's tracer lets pass everywhere; to put back what is not held any more does nothing.
    """

    def __init__(self, reason: Any = None, requeue: bool = True) -> None:
        super().__init__(reason, requeue)


@dataclass(frozen=True, slots=True)
class Fence:
    """Of one run of one message."""

    number: int
    """Rises with every claim of any message; below 2^53."""
    message: str
    """Name of the message: stays when it is delivered again."""


def fence_of(request: Any) -> Fence | None:
    """The fence of a task's request. None: it was not taken under a lease.

    Args:
        request: Celery's `Context`, a request dict, or the bare stand-in that Celery makes for an unknown task.
    """
    mapping = isinstance(request, Mapping)
    info = request.get("delivery_info") if mapping else getattr(request, "delivery_info", None)
    lease = info.get(LEASE) if isinstance(info, Mapping) else None
    if not isinstance(lease, str):
        return None
    number, _, message = lease.partition(":")
    return Fence(int(number), message)


def current_fence() -> int | None:
    """The fence of the running task, for effects of its own: write them only where no higher one was seen.

    Returns:
        A number that rises with every run of every message, below 2^53. None: no task runs in this thread, or its
        message was not taken under a lease, as with kombu's transport.
    """
    task = current_app.current_worker_task
    fence = fence_of(task.request_stack.top) if task else None
    return None if fence is None else fence.number


def is_repeat(request: Any) -> bool:
    """Whether a run of this message has begun before."""
    return bool((request.delivery_info or {}).get("redelivered"))


def was_sent_again(request: Any) -> bool:
    """Whether another message may say the same: the same task id at the same retry."""
    return bool(request.get(SENT_AGAIN))


class FenceScript:
    """One script of the result backend. Called by digest; loaded again after SCRIPT FLUSH."""

    def __init__(self, name: str) -> None:
        folder = files("celeray.scheduler") / "lua"
        self.source = "\n".join(
            (folder / f"{part}.lua").read_text("utf-8") for part in ("fence", name)
        ).encode()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def __call__(self, client: Any, keys: Sequence[Any], args: Sequence[Any]) -> Verdict:
        """Run it and wait. Raises `redis.RedisError`."""
        try:
            found = client.evalsha(self.digest, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            found = client.eval(self.source, len(keys), *keys, *args)
        return as_verdict(found)


def as_verdict(reply: bytes | str) -> Verdict:
    """A script's reply, read."""
    return Verdict(reply.decode() if isinstance(reply, bytes) else reply)


@cache
def fence_script(name: str) -> FenceScript:
    """The script of `lua/NAME.lua`: `fence_check` or `fence_store`."""
    return FenceScript(name)


@dataclass(frozen=True, slots=True)
class FenceRecord:
    """The record of a request's task id, as arguments of the scripts."""

    key: str
    fence: Fence
    retries: int
    ttl_s: int
    sent_again: bool = False

    @classmethod
    def of(cls, request: Any, keys: Keys, result_ttl_s: int | None) -> FenceRecord | None:
        """None where the request has no fence.

        Args:
            result_ttl_s: how long results live; 0 or None: for ever.
        """
        fence = fence_of(request)
        if fence is None:
            return None
        ttl_s = max(RECORD_TTL_MIN_S, int(result_ttl_s or 24 * 3600))
        retries = int(request.retries or 0)
        return cls(keys.fence_record(request.id), fence, retries, ttl_s, was_sent_again(request))

    def check_arguments(self) -> list[Any]:
        """ARGV of fence_check.lua."""
        return [*self._run_arguments(), int(self.sent_again)]

    def _run_arguments(self) -> list[Any]:
        return [self.fence.message, self.fence.number, self.retries, self.ttl_s]

    def store_arguments(
        self, state: str, payload: Any, *, completes: bool, over_unknown: bool, result_ttl_s: int
    ) -> list[Any]:
        """ARGV of fence_store.lua."""
        return [*self._run_arguments(), state, int(completes), int(over_unknown), result_ttl_s, payload]
