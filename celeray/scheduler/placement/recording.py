"""A placement cycle's whole input as JSON, so that a cycle of production replays on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from celeray.scheduler.model import Snapshot, WaitingTask
from celeray.scheduler.placement.policy import Policy


@dataclass(frozen=True, slots=True)
class CycleInput:
    """The arguments of `place`."""

    waiting: tuple[WaitingTask, ...]
    snapshot: Snapshot
    policy: Policy


_ADAPTER: TypeAdapter[CycleInput] = TypeAdapter(CycleInput)


def dump_cycle(cycle: CycleInput) -> bytes:
    """The input as JSON, readable by `load_cycle` of the same version."""
    return _ADAPTER.dump_json(cycle)


def load_cycle(data: bytes | str) -> CycleInput:
    """Read what `dump_cycle` wrote.

    Raises:
        pydantic.ValidationError: it is not such JSON; names the field.
    """
    return _ADAPTER.validate_json(data)
