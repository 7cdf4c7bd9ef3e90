"""What an operator suspends until he says otherwise: a queue, a device or a node, with who, since when and why."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Suspension(BaseModel):
    """As Redis, REST and the CLI have it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: str
    """Who said so last: user@host, or `token:ID`."""
    at: float
    """Since when, in seconds since the epoch."""
    why: str


class Pause(Suspension):
    """That a queue is paused: no worker takes from it, and submissions still queue up."""


class Drain(Suspension):
    """That an operator drained a device or a node: what runs there finishes, and nothing new is placed."""


S = TypeVar("S", bound=Suspension)


def suspended_anew(kind: type[S], current: S | None, *, by: str, why: str, now: float) -> S:
    """What suspending makes of it: the same reason again changes nothing, not even who gave it."""
    if current is None:
        return kind(by=by, at=now, why=why)
    return current if current.why == why else current.model_copy(update={"by": by, "why": why})
