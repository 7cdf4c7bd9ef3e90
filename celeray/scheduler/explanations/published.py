"""What a bridge publishes so that others can explain: the input of its next placement cycle.

The bridge writes it beside its status, at most once a second; it lives as long as the status does. The API and the CLI
read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import redis
from pydantic import TypeAdapter, ValidationError

from celeray.scheduler.keys import Keys
from celeray.scheduler.model import Reason, Reserved, WaitingTask
from celeray.scheduler.placement.fair_share import first_in_turn
from celeray.scheduler.placement.recording import CycleInput
from celeray.scheduler.status_store import UnreadableStatusError

WAITING_MOST = 1_000
"""Tasks that are published, those that are placed first."""


@dataclass(frozen=True, slots=True)
class PublishedCycle:
    """The tasks that wait in one bridge and its cluster, at one instant."""

    bridge_id: str
    at: float
    """Seconds since the epoch."""
    now_ms: int
    """The same instant on the clock of `WaitingTask.arrived_ms`."""
    cycle: CycleInput
    """What waits is in the order of placement once it is `bounded`."""
    reasons: Mapping[int, Reason] = field(default_factory=dict)
    """By sequence number, what the last cycle said. What it did not look at yet is left out."""
    reserved: Reserved | None = None
    """What the last cycle kept for a task that still waits."""
    left_out: int = 0
    """Tasks that wait too, behind those that are here."""

    def bounded(self, most: int = WAITING_MOST) -> PublishedCycle:
        """With the first `most` tasks, in the order of placement."""
        waiting = self.cycle.waiting
        first = first_in_turn(waiting, self.cycle.snapshot, self.cycle.policy.order, most)
        kept = {task.sequence for task in first}
        return replace(
            self,
            cycle=replace(self.cycle, waiting=first),
            reasons={sequence: reason for sequence, reason in self.reasons.items() if sequence in kept},
            left_out=self.left_out + len(waiting) - len(first),
        )

    def task(self, task_id: str) -> WaitingTask | None:
        """The waiting task of that id, the first one where several have it. None: there is none."""
        return next((task for task in self.cycle.waiting if task.task_id == task_id), None)


_ADAPTER: TypeAdapter[PublishedCycle] = TypeAdapter(PublishedCycle)


class PublishedCycles:
    """In the broker's Redis. Methods raise `redis.RedisError` when it does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client: Any = client
        self._keys = keys

    def write(self, found: PublishedCycle, ttl_ms: int) -> None:
        """Replace what the bridge published before."""
        document = _ADAPTER.dump_json(found.bounded())
        self._client.set(self._keys.bridge_cycle(found.bridge_id), document, px=ttl_ms)

    def read(self, bridge_ids: Sequence[str]) -> dict[str, PublishedCycle]:
        """The newest of each of those bridges that published one lately.

        Raises:
            UnreadableStatusError: one is of an incompatible version.
        """
        if not bridge_ids:
            return {}
        documents = self._client.mget([self._keys.bridge_cycle(bridge_id) for bridge_id in bridge_ids])
        pairs = zip(bridge_ids, documents, strict=True)
        return {bridge_id: _parse(document) for bridge_id, document in pairs if document is not None}


def _parse(document: bytes | str) -> PublishedCycle:
    try:
        return _ADAPTER.validate_json(document)
    except ValidationError as error:
        raise UnreadableStatusError(
            f"a placement cycle in Redis can't be read by this version of celeray: {error}"
        ) from error
