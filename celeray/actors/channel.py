"""The private pipe between the bridge and the process that drives Ray: what crosses it, and how.

A frame is one pickled tuple of values. Both ends are this package, in the same environment, joined by a socket
pair that nobody else can open, so pickle is safe here.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from celeray.scheduler.cluster import ExecutorSpec, NodeAsk

PICKLE_PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """The first frame: what the driver needs to connect."""

    bridge_id: str
    ray_address: str | None
    """None: start a local Ray."""
    simulate_gpus: str | None
    reading_interval_s: float
    canary_interval_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StartExecutor:
    spec: ExecutorSpec


@dataclass(frozen=True, slots=True)
class Run:
    executor_id: str
    runs: bytes
    """Pickled tuple of `RunSpec`: the driver hands it on as it is."""


@dataclass(frozen=True, slots=True)
class StopExecutor:
    executor_id: str
    force: bool


@dataclass(frozen=True, slots=True)
class SignalExecutor:
    executor_id: str
    signum: int


@dataclass(frozen=True, slots=True)
class ReadNode:
    node_id: str


@dataclass(frozen=True, slots=True)
class Forgive:
    """No XID of the device that came up to a time keeps it out."""

    node_id: str
    uuid: str
    up_to: float


@dataclass(frozen=True, slots=True)
class Scale:
    """The nodes that are wanted from the autoscaler, and those that are given back; replaces what was said before."""

    asks: tuple[NodeAsk, ...]
    released: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The bridge has renewed its leases: its executors may go on."""

    sent_at: float
    """Monotonic seconds before the renewal was sent."""
    lease_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End all executors, disconnect and exit."""

    timeout_s: float


Command = StartExecutor | Run | StopExecutor | SignalExecutor | ReadNode | Forgive | Scale | KeepAlive | Stop


def encode(values: Sequence[Any]) -> bytes:
    """One frame's bytes."""
    return pickle.dumps(tuple(values), PICKLE_PROTOCOL)


def send(connection: Connection, values: Sequence[Any]) -> None:
    """Write one frame. Not thread-safe: one writer at a time.

    Raises:
        OSError: the other end is gone.
    """
    connection.send_bytes(encode(values))


def receive(connection: Connection) -> tuple[Any, ...]:
    """Read one frame; blocks.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    frame: tuple[Any, ...] = pickle.loads(connection.recv_bytes())  # noqa: S301 - see the module's docstring
    return frame
