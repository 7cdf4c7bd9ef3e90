"""The worker's in-memory sets as the suite's tests use them: `celery.worker.state` of another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.worker import state as worker_state

STATE_COMMAND = "conformance_state"
MIRRORED = ("revoked", "revoked_stamps", "successful_requests")
REPLY_DEADLINE_S = 10.0

OPERATIONS: dict[str, Callable[[Any, str | None], object]] = {
    "contains": lambda held, key: key in held,
    "as_dict": lambda held, key: held.as_dict(),
    "discard": lambda held, key: held.discard(key),
    "clear": lambda held, key: held.clear(),
}


class RemoteState:
    """One of the worker's sets. Each use is one control command, answered before it returns."""

    def __init__(self, app: Celery, node: str, name: str) -> None:
        self._app = app
        self._node = node
        self._name = name

    def __contains__(self, key: str) -> bool:
        return bool(self._ask("contains", key))

    def as_dict(self) -> dict[str, float]:
        held: dict[str, float] = self._ask("as_dict")
        return held

    def discard(self, key: str) -> None:
        self._ask("discard", key)

    def clear(self) -> None:
        self._ask("clear")

    def _ask(self, operation: str, key: str | None = None) -> Any:
        arguments = {"name": self._name, "operation": operation, "key": key}
        replies = self._app.control.broadcast(
            STATE_COMMAND,
            arguments=arguments,
            destination=[self._node],
            reply=True,
            limit=1,
            timeout=REPLY_DEADLINE_S,
        )
        if not replies:
            raise TimeoutError(
                f"{self._node} did not answer {operation} of {self._name} in {REPLY_DEADLINE_S:g} s"
            )
        return replies[0][self._node]


@contextmanager
def mirrored_state(app: Celery, node: str) -> Iterator[None]:
    """For the suite, `celery.worker.state` is the state of the external worker while this lasts."""
    own = {name: getattr(worker_state, name) for name in MIRRORED}
    for name in MIRRORED:
        setattr(worker_state, name, RemoteState(app, node, name))
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(worker_state, name, value)
