"""How it stands with the nodes that Ray's autoscaler may add: written by bridges, shown by REST, CLI and /metrics."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class ElasticStatus(BaseModel):
    """Nodes of one type that Ray's autoscaler may add, as one bridge or all of them have to do with it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    min: int
    max: int
    there: int = 0
    """Leased, and not leaving."""
    asked: int = 0
    """Asked for and not come."""
    asked_since: float | None = None
    """When the oldest of these was asked for, in seconds since the epoch."""
    leaving: int = 0
    """Their executors end, so that they can go back."""
    released: int = 0
    """Given back, and not taken away by Ray as far as is known."""


def over_bridges(items: Iterable[ElasticStatus]) -> tuple[ElasticStatus, ...]:
    """By type, over all bridges. Each asks for its own backlog, and Ray sees the sum."""
    found: dict[str, ElasticStatus] = {}
    for item in items:
        known = found.get(item.type)
        found[item.type] = item if known is None else _both(known, item)
    return tuple(found[name] for name in sorted(found))


def _both(one: ElasticStatus, other: ElasticStatus) -> ElasticStatus:
    since = [at for at in (one.asked_since, other.asked_since) if at is not None]
    return ElasticStatus(
        type=one.type,
        min=one.min + other.min,
        max=max(one.max, other.max),
        there=one.there + other.there,
        asked=one.asked + other.asked,
        asked_since=min(since, default=None),
        leaving=one.leaving + other.leaving,
        # Each bridge gives its own lease of a node back, so several may know of the same node.
        released=max(one.released, other.released),
    )
