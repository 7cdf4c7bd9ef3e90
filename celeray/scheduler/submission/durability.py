"""Waiting for replicas, on the connection that has written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from kombu.exceptions import OperationalError

from celeray.scheduler.errors import CelerayError

SLICE_S = 1.0
"""Of one WAIT, so that it ends before a socket timeout does."""
GRACE_S = 5.0
"""A server that does not answer so long after a WAIT's own timeout is gone."""


class NotReplicatedError(CelerayError, OperationalError, redis.exceptions.ConnectionError):
    """Fewer replicas than asked have the messages: they may run, and may be lost if the master fails now.

    It counts as a connection error, so that kombu publishes again by the app's retry policy; that and a call with the
    same task id write nothing twice.

    Attributes:
        task_ids: of the messages.
        wanted: replicas asked for.
        got: replicas that have them.
        timeout_s: how long they had.
    """

    def __init__(self, task_ids: Sequence[str], wanted: int, got: int, timeout_s: float) -> None:
        super().__init__(task_ids, wanted, got, timeout_s)
        self.task_ids = task_ids
        self.wanted = wanted
        self.got = got
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        ids = ", ".join(self.task_ids[:3]) + ("..." if len(self.task_ids) > 3 else "")
        return (
            f"durable_replicas={self.wanted}: {self.got} replicas had the message within {self.timeout_s:g} s, so it "
            f"is not sure to survive; submit again with the same task id: {ids}"
        )


def replicas_that_have_it(connection: Any, wanted: int, timeout_s: float) -> int:
    """WAIT until `wanted` replicas have all that this connection has written, at most `timeout_s`.

    Never on another connection: one that wrote nothing is told at once how many replicas there are.

    Raises:
        redis.ConnectionError: the connection is gone.
    """
    ends = time.monotonic() + timeout_s
    timeout = getattr(connection, "socket_timeout", None)
    longest = min(SLICE_S, timeout / 2) if timeout else SLICE_S
    while True:
        left = max(0.001, min(longest, ends - time.monotonic()))
        # A health check could connect anew.
        connection.send_packed_command(
            connection.pack_command("WAIT", wanted, max(1, int(left * 1000))), check_health=False
        )
        if not connection.can_read(timeout=left + GRACE_S):
            raise redis.exceptions.TimeoutError("no answer to WAIT")
        got = int(connection.read_response())
        if got >= wanted or time.monotonic() >= ends:
            return got
