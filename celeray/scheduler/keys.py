"""Every Redis key of celeray's own, and the broker's keys that celeray reads. No other module spells one.

| key | type | holds | lives |
|---|---|---|---|
| `celeray:bridge:ID` | string | JSON of a `BridgeStatus` | seconds after its last write |
| `celeray:bridge-cycle:ID` | string | JSON of its next placement cycle (explanations/published.py) | as above |
| `celeray:bridges` | zset | bridge id by the time of its last write | 1 h after the last write |
| `celeray:bridge-names` | hash | Celery node name by bridge id | as above |
| `celeray:tasks` | hash | JSON of a `TaskRecord` by task id, for the ids of the next two | 1 day after the last write |
| `celeray:tasks:open` | zset | ids of tasks that wait or run, by the time of their last change | 1 day |
| `celeray:tasks:ended` | zset | the newest 10,000 ids of ended runs, by the time of their end | `result_ttl_s` |
| `celeray:counters` | hash | sums over all bridges that ever were, by series | for ever |
| `celeray:counters:ID` | hash | what of them came from one bridge | 1 day after its last write |
| `celeray:leases` | hash | owner, length and list of the lease of a held message, by its tag | until it is settled |
| `celeray:lease-deadlines` | zset | the same tags by the time when their leases end | as above |
| `celeray:begun` | hash | runs of a message begun and not ended, by its tag; 0: it was requeued | until it is settled |
| `celeray:fence` | string | the last fence: rises with every claim | for ever |
| `celeray:fence:TASK` | hash | in the result backend: fences of an id (lua/fence.lua) | as the result, at least 1 h |
| `celeray:chord:GROUP:*` | - | in the result backend: what opens a chord again | `letter_retention_s` and 1 h |
| `celeray:once:SCOPE:TASK` | string | this id was published for a run's message, or for a chord | 1 day |
| `celeray:parked` | hash | msgpack of a message that was given up (letters/) | `letter_retention_s` |
| `celeray:scheduled` | hash | as `celeray:parked`, of messages that a retry policy sends again | until it does |
| `celeray:scheduled:due` | zset | their ids, by the time when they are due | as above |
| `celeray:scheduled:publish` | zset | as above, where the broker is no Redis; or the end of a claim | as above |
| `celeray:left:ID` | string | this attempt has left its letter, where the broker is no Redis | 1 day |
| `celeray:parked:past` | hash | what was redriven or discarded, without its message | 1 h, the newest 10,000 |
| `celeray:parked:past:at` | zset | their ids, by the time when that was | as above |
| `celeray:restoring` | hash | run id of the server, and since when it is known | for ever |
| `celeray:paused` | hash | JSON of a `Pause` by the name of the queue | until it is resumed |
| `celeray:drained` | hash | JSON of a `Drain` by `device:UUID` or `node:NAME` | until it is undrained |
| `celeray:forgiven` | hash | time of the newest XID that an operator has looked at, by UUID | for ever |
| `celeray:audit` | stream | who changed what, when and why | the newest 10,000 |
| `celeray:etas` | zset | messages with a far eta, by the time when they go back to their list | until then |
| `celeray:etas:entries` | hash | msgpack of list, task id and what `inspect scheduled` shows of each | as above |
| `celeray:etas:messages` | hash | their bytes | as above |
| `celeray:etas:ids` | zset | task id, NUL, and name of each, in the order of their bytes | as above |
| `celeray:etas:lists` | hash | how many there are of a list | as above |
| `celeray:revoked` | zset | ids of revoked tasks, by the time when they were revoked; at most 100,000 | 3 h |
| `celeray:revoked:stamps` | zset | JSON of header and stamp, as above | 3 h |
| `celeray:keepers` | zset | keepers by the time of their last heartbeat | 1 h after it |
| `celeray:duty:NAME` | string | who did the duty last; meanwhile no other does it | the duty's interval |
| `celeray:dedup:DIGEST` | hash | who has a dedup key, and its live messages (lua/lease.lua) | as it is held |
| `celeray:published:ID` | string | msgpack of the reply to a submission, for its repetition | `publish_memory_s` |
| `celeray:limits` | hash | JSON of each limit in use, by gate (limits/lua/gates.lua) | 1 min after its last use |
| `celeray:limits:due` | zset | the same gates by the time when they are to be looked at | as above |
| `celeray:limits:messages` | hash | list and bytes of each message that waits for one, by tag | until it is called |
| `celeray:limits:sequence` | string | the last age given to such a message | for ever |
| `celeray:limits:sweeper` | string | the worker that looks at the gates that are due | 3 s |
| `celeray:limit:GATE:*` | - | of one gate: who holds room, who waits, who was called | as its row in `celeray:limits` |
| `celeray:learned` | zset | JSON of task name and device model, by the time of the last observation | 14 days |
| `celeray:learned:PERIOD:DIGEST` | hash | of one of them, runs by VRAM peak (learned/store.py) | 14 days |
| `celeray:tenants:WIDTH:SLICE` | hash | VRAM use of a slice of time by tenant (tenant_store.py) | 9 half-lives |
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

    def bridge_cycle(self, bridge_id: str) -> str:
        return f"{self.prefix}celeray:bridge-cycle:{bridge_id}"

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

    def scheduled(self) -> list[str]:
        """Letters that are sent again: their records, and when."""
        base = f"{self.prefix}celeray:scheduled"
        return [base, f"{base}:due"]

    def left(self, letter: str) -> str:
        return f"{self.prefix}celeray:left:{letter}"

    def past_letters(self) -> str:
        return f"{self.prefix}celeray:parked:past"

    def fence(self) -> str:
        return f"{self.prefix}celeray:fence"

    def fence_record(self, task_id: str) -> str:
        return f"{self.prefix}celeray:fence:{task_id}"

    def once(self, scope: str, task_id: str) -> str:
        return f"{self.prefix}celeray:once:{scope}:{task_id}"

    def chord(self, group_id: str) -> list[str]:
        """Of a chord with a failed member, in the result backend: record, parts, ids (letters/chords.py)."""
        base = f"{self.prefix}celeray:chord:{group_id}"
        return [base, f"{base}:parts", f"{base}:ids"]

    def restore_marker(self) -> str:
        return f"{self.prefix}celeray:restoring"

    def schedule(self) -> list[str]:
        """What every script about far etas works on: due, entries, messages, ids, lists."""
        base = f"{self.prefix}celeray:etas"
        return [base, f"{base}:entries", f"{base}:messages", f"{base}:ids", f"{base}:lists"]

    def revoked(self) -> str:
        return f"{self.prefix}celeray:revoked"

    def revoked_stamps(self) -> str:
        return f"{self.prefix}celeray:revoked:stamps"

    def keepers(self) -> str:
        return f"{self.prefix}celeray:keepers"

    def duty(self, name: str) -> str:
        return f"{self.prefix}celeray:duty:{name}"

    def dedup(self, digest: str = "") -> str:
        """Of all digests this is the beginning. lua/lease.lua makes it from `parked`."""
        return f"{self.prefix}celeray:dedup:{digest}"

    def published(self, submission: str) -> str:
        return f"{self.prefix}celeray:published:{submission}"

    def limit_book(self) -> list[str]:
        """What the limits' scripts work on after the lease book, in the order that limits/lua/gates.lua says."""
        base = f"{self.prefix}celeray:limits"
        kinds = ("due", "messages", "sequence", "sweeper")
        return [base, *(f"{base}:{kind}" for kind in kinds), f"{self.prefix}celeray:limit:"]

    def limit_part(self, gate: str, part: str) -> str:
        """`holders`, `waiting`, `called`, `deadlines` or `arrival` of a gate."""
        return f"{self.prefix}celeray:limit:{gate}:{part}"

    def learned(self) -> str:
        return f"{self.prefix}celeray:learned"

    def learned_series(self, period: int, digest: str) -> str:
        """`period`: its number since the epoch."""
        return f"{self.prefix}celeray:learned:{period}:{digest}"

    def tenant_use(self, width_ms: int, number: int) -> str:
        """`number`: of the slice of time, since the epoch, each `width_ms` long."""
        return f"{self.prefix}celeray:tenants:{width_ms}:{number}"

    def nap(self) -> str:
        return f"{self.prefix}celeray:nap"

    def paused(self) -> str:
        return f"{self.prefix}celeray:paused"

    def drained(self) -> str:
        return f"{self.prefix}celeray:drained"

    def forgiven(self) -> str:
        return f"{self.prefix}celeray:forgiven"

    def audit(self) -> str:
        return f"{self.prefix}celeray:audit"

    def queue_lists(self, queue: str) -> Sequence[str]:
        """The broker's lists of a queue, in the order of `BROKER_PRIORITIES`."""
        name = f"{self.prefix}{queue}"
        return [name, *(f"{name}{self.separator}{step}" for step in BROKER_PRIORITIES[1:])]
