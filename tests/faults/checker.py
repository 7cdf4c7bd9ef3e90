"""What a history says: lost, doubled, repeated, zombies. Pure.

Of every acknowledged submission the checker expects that its task ends, that its effect was accepted, that its result
can be read, and that its callback has run. A *run* is one execution of a message, a *publication* one message on the
broker, known by its tag, which it keeps however often it is delivered. So a message that runs again after a crash
is a repeated start; two publications of one thing are a doubling.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.history import Record


@dataclass(frozen=True)
class Findings:
    """The verdict on one history. Names are task ids, `ID:callback` and the like for what belongs to one."""

    acknowledged: int = 0
    unknown: int = 0
    """Submissions of which the submitter does not know whether they were published."""
    starts: int = 0
    crashes: int = 0
    lost: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    """Run, and never submitted, or refused at submission."""
    doubled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By kind: message, result, effect, callback, part, body."""
    zombies: tuple[str, ...] = ()
    """A result or an effect was written under a fence older than that of a run that had begun."""
    repeated: Mapping[str, int] = field(default_factory=dict)
    """Starts of a publication beyond its first, by task id."""
    recovered: tuple[str, ...] = ()
    """Started more than once, and ended."""

    @property
    def doubled_count(self) -> int:
        return sum(map(len, self.doubled.values()))

    @property
    def repeated_starts(self) -> int:
        return sum(self.repeated.values())

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled; repeated starts only where something crashed."""
        broken = self.lost or self.unexpected or self.doubled_count or self.zombies
        return not broken and (self.crashes > 0 or not self.repeated)

    def summary(self) -> str:
        """One line."""
        doubled = ", ".join(f"{kind} {len(ids)}" for kind, ids in sorted(self.doubled.items()) if ids) or "0"
        return (
            f"acknowledged {self.acknowledged}, unknown {self.unknown}, lost {len(self.lost)}, doubled {doubled}, "
            f"zombies {len(self.zombies)}, unexpected {len(self.unexpected)}, starts {self.starts}, "
            f"repeated {self.repeated_starts}, recovered {len(self.recovered)}, crashes {self.crashes}"
        )


def check(records: Sequence[Record]) -> Findings:
    """Judge a whole history, in the order of its times."""
    seen: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        seen[record["event"]].append(record)
    acknowledged = {record["id"]: record for record in seen["submit-ok"]}
    repeated = _repeated(seen["start"])
    ended = {record["id"] for record in seen["end"]}
    return Findings(
        acknowledged=len(acknowledged),
        unknown=len(seen["submit-unknown"]),
        starts=len(seen["start"]),
        crashes=sum(bool(record["crash"]) for record in seen["fault"]),
        lost=tuple(_lost(acknowledged, seen)),
        unexpected=tuple(_unexpected(seen)),
        doubled={kind: ids for kind, ids in _doubled(seen).items() if ids},
        zombies=tuple(_zombies(records)),
        repeated=repeated,
        recovered=tuple(sorted(ended.intersection(repeated))),
    )


def _lost(acknowledged: Mapping[str, Record], seen: Mapping[str, list[Record]]) -> list[str]:
    ended = {record["id"] for record in seen["end"]}
    effects = {record["id"] for record in seen["effect"]}
    results = {record["id"] for record in seen["result-seen"]}
    begun = {record["id"]: record.get("of") for record in seen["start"] if record["role"] == "callback"}
    called_back = {of for task_id, of in begun.items() if task_id in ended}
    lost = []
    for task_id, record in sorted(acknowledged.items()):
        if task_id not in ended:
            lost.append(task_id)
            continue
        kept = {"effect": task_id in effects, "result": task_id in results}
        if record["role"] == "work":
            kept["callback"] = task_id in called_back
        lost += [f"{task_id}:{what}" for what, there in kept.items() if not there]
    return lost


def _unexpected(seen: Mapping[str, list[Record]]) -> list[str]:
    known = {record["id"] for event in ("submit-ok", "submit-unknown") for record in seen[event]}
    started = {record["id"] if record["role"] != "callback" else record["of"] for record in seen["start"]}
    return sorted(started - known)


def _doubled(seen: Mapping[str, list[Record]]) -> dict[str, tuple[str, ...]]:
    publications: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in seen["start"]:
        what = record["of"] if record["role"] == "callback" else record["id"]
        # Of a callback the id is new with every publication, of all others it stays.
        publications[_KINDS[record["role"]]][what].add(f"{record['id']} {record['tag']}")
    found = {kind: _more_than_one(of_kind) for kind, of_kind in publications.items()}
    runs: dict[str, set[str]] = defaultdict(set)
    for record in seen["result-stored"]:
        runs[record["id"]].add(record["run"])
    effects = Counter(record["id"] for record in seen["effect"])
    return {
        **found,
        "result": _more_than_one(runs),
        "effect": tuple(sorted(task_id for task_id, count in effects.items() if count > 1)),
        "part": tuple(sorted(set(_wrong_parts(seen)))),
    }


_KINDS = {"work": "message", "part": "message", "body": "body", "callback": "callback"}


def _more_than_one(values: Mapping[str, set[str]]) -> tuple[str, ...]:
    return tuple(sorted(key for key, items in values.items() if len(items) > 1))


def _wrong_parts(seen: Mapping[str, list[Record]]) -> Iterable[str]:
    """Bodies that were not given each of their parts once."""
    asked = {
        record["id"]: sorted(record["parts"])
        for event in ("submit-ok", "submit-unknown")
        for record in seen[event]
        if record["role"] == "body"
    }
    for record in seen["end"]:
        if record["role"] == "body" and sorted(record["parts"]) != asked.get(record["id"]):
            yield record["id"]


def _repeated(starts: Iterable[Record]) -> dict[str, int]:
    runs: Counter[tuple[str, str]] = Counter((record["id"], record["tag"]) for record in starts)
    repeated: Counter[str] = Counter()
    for (task_id, _tag), count in runs.items():
        repeated[task_id] += count - 1
    return {task_id: count for task_id, count in repeated.items() if count}


def _zombies(records: Iterable[Record]) -> list[str]:
    newest: dict[str, int] = {}
    found = []
    for record in records:
        fence = record.get("fence")
        if fence is None:
            continue
        if record["event"] == "start":
            newest[record["id"]] = max(fence, newest.get(record["id"], fence))
        elif record["event"] in ("result-stored", "effect") and fence < newest.get(record["id"], fence):
            found.append(record["id"])
    return sorted(found)
