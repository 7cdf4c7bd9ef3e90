"""Every Redis key of celeray's own, and the broker's keys that celeray reads. No other module spells one.

| key | type | holds | lives |
|---|---|---|---|
| `celeray:bridge:ID` | string | JSON of a `BridgeStatus` | seconds after its last write |
| `celeray:bridges` | zset | bridge id by the time of its last write | 1 h after the last write |
| `celeray:bridge-names` | hash | Celery node name by bridge id | as above |
| `celeray:tasks` | hash | JSON of a `TaskRecord` by task id, for the ids of the next two | 1 day after the last write |
| `celeray:tasks:open` | zset | ids of tasks that wait or run, by the time of their last change | 1 day |
| `celeray:tasks:ended` | zset | the newest 10,000 ids of ended runs, by the time of their end | `result_ttl_s` |
| `celeray:counters` | hash | sums over all bridges that ever were, by series | for ever |
| `celeray:counters:ID` | hash | what of them came from one bridge | 1 day after its last write |
| `celeray:leases` | hash | owner, length and list of the lease of a held message, by its tag | until it is settled |
| `celeray:lease-deadlines` | zset | the same tags by the time when their leases end | as above |
| `celeray:begun` | hash | runs of a message that have begun and not ended, by its tag | until it is settled |
| `celeray:fence` | string | the last fence: rises with every claim | for ever |
| `celeray:parked` | hash | msgpack of a message that can't be read or never ends, with its bytes and why | for ever |
| `celeray:restoring` | hash | run id of the server, and since when it is known | for ever |
| `celeray:nap` | - | never written: workers that must poll sleep on it | - |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRIORITY_SEPARATOR = "\x06\x16"
BROKER_PRIORITIES = tuple(range(10))
"""0 is served first on Redis: API priority = 10 - broker priority."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Makes keys. The prefix is kombu's `global_keyprefix`, which separates apps that share a database."""

    prefix: str = ""
    separator: str = PRIORITY_SEPARATOR
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"

    def bridge(self, bridge_id: str) -> str:
        return f"{self.prefix}celeray:bridge:{bridge_id}"

    def bridges(self) -> str:
        return f"{self.prefix}celeray:bridges"

    def bridge_names(self) -> str:
        return f"{self.prefix}celeray:bridge-names"

    def tasks(self) -> str:
        return f"{self.prefix}celeray:tasks"

    def open_tasks(self) -> str:
        return f"{self.prefix}celeray:tasks:open"

    def ended_tasks(self) -> str:
        return f"{self.prefix}celeray:tasks:ended"

    def counters(self) -> str:
        return f"{self.prefix}celeray:counters"

    def bridge_counters(self, bridge_id: str) -> str:
        return f"{self.prefix}celeray:counters:{bridge_id}"

    def unacked(self) -> str:
        """Hash of messages that a consumer holds."""
        return f"{self.prefix}{self.unacked_key}"

    def lease_book(self) -> list[str]:
        """What every script of the leased transport works on, in the order that lua/lease.lua says."""
        return [
            self.unacked(),
            f"{self.prefix}{self.unacked_index_key}",
            f"{self.prefix}celeray:leases",
            f"{self.prefix}celeray:lease-deadlines",
            f"{self.prefix}celeray:begun",
            self.parked(),
        ]

    def parked(self) -> str:
        return f"{self.prefix}celeray:parked"

    def fence(self) -> str:
        return f"{self.prefix}celeray:fence"

    def restore_marker(self) -> str:
        return f"{self.prefix}celeray:restoring"

    def nap(self) -> str:
        return f"{self.prefix}celeray:nap"

    def queue_lists(self, queue: str) -> Sequence[str]:
        """The broker's lists of a queue, in the order of `BROKER_PRIORITIES`."""
        name = f"{self.prefix}{queue}"
        return [name, *(f"{name}{self.separator}{step}" for step in BROKER_PRIORITIES[1:])]
