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

    def queue_lists(self, queue: str) -> Sequence[str]:
        """The broker's lists of a queue, in the order of `BROKER_PRIORITIES`."""
        name = f"{self.prefix}{queue}"
        return [name, *(f"{name}{self.separator}{step}" for step in BROKER_PRIORITIES[1:])]
