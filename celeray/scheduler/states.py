"""States of a run in the bridge and of an executor, with the transitions that are allowed.

The diagrams in docs/architecture.md are checked against these tables by a test.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class RunState(StrEnum):
    """One run of a message, from the moment the bridge holds it until Celery's callback was called."""

    WAITING = "waiting"
    """Held by the bridge, not placed."""
    RESERVED = "reserved"
    """Placed; its executor is starting or has not begun it."""
    RUNNING = "running"
    """Begun in an executor; Celery's accept callback was called."""
    ENDED = "ended"
    """An outcome was handed to Celery, or the message was given back."""


class ExecutorState(StrEnum):
    """A process on the cluster that runs tasks of one executor class."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"
    """Told to stop; its devices stay reserved until its death was seen."""
    RECLAIMING = "reclaiming"
    """Dead; its VRAM is given out again once a later reading was taken."""
    GONE = "gone"


HOLDS_DEVICES = frozenset(
    {
        ExecutorState.STARTING,
        ExecutorState.IDLE,
        ExecutorState.BUSY,
        ExecutorState.ENDING,
        ExecutorState.RECLAIMING,
    }
)
ALIVE = frozenset({ExecutorState.STARTING, ExecutorState.IDLE, ExecutorState.BUSY})

RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.WAITING: frozenset({RunState.RESERVED, RunState.ENDED}),
    RunState.RESERVED: frozenset({RunState.WAITING, RunState.RUNNING, RunState.ENDED}),
    RunState.RUNNING: frozenset({RunState.WAITING, RunState.ENDED}),
    RunState.ENDED: frozenset(),
}

EXECUTOR_TRANSITIONS: dict[ExecutorState, frozenset[ExecutorState]] = {
    ExecutorState.STARTING: frozenset(
        {ExecutorState.IDLE, ExecutorState.BUSY, ExecutorState.ENDING, ExecutorState.RECLAIMING}
    ),
    ExecutorState.IDLE: frozenset({ExecutorState.BUSY, ExecutorState.ENDING, ExecutorState.RECLAIMING}),
    ExecutorState.BUSY: frozenset({ExecutorState.IDLE, ExecutorState.ENDING, ExecutorState.RECLAIMING}),
    ExecutorState.ENDING: frozenset({ExecutorState.RECLAIMING}),
    ExecutorState.RECLAIMING: frozenset({ExecutorState.GONE}),
    ExecutorState.GONE: frozenset(),
}

S = TypeVar("S", RunState, ExecutorState)


def transition(table: dict[S, frozenset[S]], old: S, new: S) -> S:
    """Return `new` where `table` allows it after `old`.

    Raises:
        ValueError: the table has no such transition; the message names both states.
    """
    if new not in table[old]:
        raise ValueError(f"no transition {old} -> {new}; allowed: {sorted(table[old]) or 'none'}")
    return new
