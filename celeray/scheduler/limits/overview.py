"""What waits for limits and who is in the way, for REST and the command line. Reads only."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.keys import Keys

GATES_MOST = 500
"""Shown at once, those that are looked at next first: where messages wait, before the others."""
HOLDERS_MOST = 100
"""Shown of one gate."""


class LimitHolder(BaseModel):
    """A run that has passed, and has not ended as far as is known."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    worker: str
    """Host and process id of the worker that holds its message."""
    since: float
    alive: bool
    """Whether its lease is still held. If not, its room is given to the next."""


class LimitStatus(BaseModel):
    """A limit, for one value of its key."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The setting's pattern, or the task's name."""
    value: str | None
    """Of the key. None: the limit has none. Empty: the calls without a value."""
    rate: str | None
    concurrency: int | None
    waiting: int
    """Messages that wait here for their turn; they are not in the depth of their queues."""
    called: int
    """Messages that were put back to their queues just now, and have room kept."""
    running: int | None
    """Runs under way. None: only begins are limited here."""
    next_in_s: float | None
    """Until the rate lets the next run begin. None: it does now, or there is no rate."""
    holders: tuple[LimitHolder, ...]


class LimitList(BaseModel):
    """The answer of `/v1/limits`: limits in use now, or less than a minute ago."""

    model_config = ConfigDict(frozen=True)

    limits: tuple[LimitStatus, ...]
    waiting: int
    """All messages that wait for limits, also those not shown."""
    more: int
    """Limits that are not shown."""


def read_limits(client: Any, keys: Keys) -> LimitList:
    """The limits in use. Several commands: what moves meanwhile may be seen twice or not at all.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    gates, due, messages, *_ = keys.limit_book()
    seconds, micros = client.time()
    now = int(seconds) + int(micros) / 1e6
    pipe = client.pipeline(transaction=False)
    pipe.zrange(due, 0, GATES_MOST - 1)
    pipe.zcard(due)
    pipe.hlen(messages)
    ids, count, waiting = pipe.execute()
    documents = client.hmget(gates, ids) if ids else []
    known = [(_text(gate), json.loads(text)) for gate, text in zip(ids, documents, strict=True) if text]
    limits = tuple(_read_gate(client, keys, gate, document, now) for gate, document in known)
    # What is due soonest may well be a gate where nobody waits.
    ordered = sorted(limits, key=lambda limit: (-limit.waiting, limit.name, limit.value or ""))
    return LimitList(limits=tuple(ordered), waiting=waiting, more=count - len(known))


def _read_gate(client: Any, keys: Keys, gate: str, document: dict[str, Any], now: float) -> LimitStatus:
    pipe = client.pipeline(transaction=False)
    pipe.zcard(keys.limit_part(gate, "waiting"))
    pipe.zcount(keys.limit_part(gate, "deadlines"), f"({now}", "+inf")
    pipe.hlen(keys.limit_part(gate, "holders"))
    pipe.hscan(keys.limit_part(gate, "holders"), count=HOLDERS_MOST)
    pipe.get(keys.limit_part(gate, "arrival"))
    waiting, called, running, (_, entries), arrival = pipe.execute()
    entries = dict(list(entries.items())[:HOLDERS_MOST])
    leases = client.hmget(keys.lease_book()[2], list(entries)) if entries else []
    holders = [_holder(entry, lease) for entry, lease in zip(entries.values(), leases, strict=True)]
    return LimitStatus(
        name=document["name"],
        value=document.get("value"),
        rate=document.get("rate"),
        concurrency=document.get("concurrency"),
        waiting=waiting,
        called=called,
        running=running if document.get("concurrency") else None,
        next_in_s=_next_in_s(document, arrival, now),
        holders=tuple(sorted(holders, key=lambda holder: holder.since)),
    )


def _holder(entry: bytes | str, lease: bytes | str | None) -> LimitHolder:
    token, task_id, since, _rank = _text(entry).split("\n")
    owner = token.rpartition(":")[0]
    return LimitHolder(
        task_id=task_id,
        # An owner is HOST:PID:CHANNEL (leases.py).
        worker=owner.rpartition(":")[0] or owner,
        since=float(since),
        alive=lease is not None and _text(lease).partition("\n")[0] == token,
    )


def _next_in_s(document: dict[str, Any], arrival: bytes | str | None, now: float) -> float | None:
    if arrival is None or "interval_s" not in document:
        return None
    left_s = float(arrival) - (document["burst"] - 1) * document["interval_s"] - now
    return round(left_s, 3) if left_s > 0 else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
