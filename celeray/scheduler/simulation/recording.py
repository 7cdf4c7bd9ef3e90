"""Follows the runs that bridges record, and keeps what simulations need of them: `celeray record`.

Redis keeps an ended run's record for `result_ttl_s`, and the newest 10,000: a day's trace has to be written as it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celeray.scheduler.simulation.history import history_line
from celeray.scheduler.status import BridgeStatus, DeviceStatus, NodeStatus
from celeray.scheduler.status_store import StatusStore

OVERLAP_S = 60.0
"""Each look goes back so far behind the newest record seen: another bridge may write later of what ended before."""
Known = tuple[str, float]
"""Task id and time of arrival of a run."""


class HistoryFollower:
    """Yields a line for each run that began and has ended, once."""

    def __init__(self, store: StatusStore, *, known: Iterable[Known] = ()) -> None:
        """
        Args:
            known: runs that are left out, since they were written before.
        """
        self._store = store
        self._known = set(known)
        self._seen: dict[Known, float] = {}
        """When each run that was yielded ended, as far back as looks go."""
        self._newest = 0.0

    def run_once(self) -> list[str]:
        """What has ended since the last look, or, at the first one, all that Redis still has.

        Raises:
            redis.RedisError: Redis does not answer.
            UnreadableStatusError: a record is of an incompatible version.
        """
        lines = []
        for record in self._store.ended_since(self._newest - OVERLAP_S):
            run = (record.task_id, record.received_at)
            if run in self._seen or run in self._known or (line := history_line(record)) is None:
                continue
            self._seen[run] = record.changed_at
            lines.append(line)
        self._newest = max([self._newest, *self._seen.values()])
        # Twice the overlap: a record's time may be rounded to before the look's.
        oldest = self._newest - 2 * OVERLAP_S
        self._seen = {run: ended for run, ended in self._seen.items() if ended >= oldest}
        return lines


def skipped_by_bridge(bridges: Iterable[BridgeStatus]) -> dict[str, int]:
    """Runs that bridges counted and did not write a record of, since they started."""
    return {bridge.bridge_id: bridge.records_skipped for bridge in bridges}


def skipped_between(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """How many runs were not written in between."""
    return sum(count - before.get(bridge_id, 0) for bridge_id, count in after.items())


def cluster_of(nodes: Sequence[NodeStatus], devices: Sequence[DeviceStatus]) -> list[dict[str, Any]]:
    """The cluster as `celeray simulate --nodes` reads it. Devices whose memory is not known are left out."""
    return [
        {
            "name": node.name,
            "cpus_milli": node.cpus_milli,
            "memory_mib": node.memory_mib,
            "labels": node.labels,
            "devices": [
                {"total_mib": device.total_mib, "gpu_type": device.name or ""}
                for device in devices
                if device.node_id == node.node_id and device.total_mib
            ],
        }
        for node in nodes
    ]
