"""Which keepers are alive: each writes the time of its last round, and takes itself off when it ends."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.status import KeeperSummary

ALIVE_S = 10.0
"""A keeper writes every second."""
GONE_S = 3_600
"""How long one that stopped writing is still shown, as a bridge is."""


def server_time(client: Any) -> float:
    """Seconds since the epoch by the clock of Redis. Raises `redis.RedisError`."""
    seconds, micros = client.time()
    return float(seconds) + float(micros) / 1e6


def write_heartbeat(client: Any, keys: Keys, keeper: str, now: float) -> None:
    """Raises `redis.RedisError`."""
    client.zadd(keys.keepers(), {keeper: now})


def leave(client: Any, keys: Keys, keeper: str) -> None:
    """A keeper that ends as planned. Raises `redis.RedisError`."""
    client.zrem(keys.keepers(), keeper)


def forget_gone(client: Any, keys: Keys, now: float) -> int:
    """Take keepers off that have not written for an hour. Raises `redis.RedisError`."""
    return int(client.zremrangebyscore(keys.keepers(), "-inf", now - GONE_S))


def read_keepers(client: Any, keys: Keys) -> tuple[KeeperSummary, ...]:
    """Those that are alive; where none is, those that were within the last hour. Raises `redis.RedisError`."""
    now = server_time(client)
    written = client.zrangebyscore(keys.keepers(), now - GONE_S, "+inf", withscores=True)
    found = [
        KeeperSummary(name=name.decode(), up=now - at <= ALIVE_S, age_s=max(0.0, now - at))
        for name, at in written
    ]
    alive = [keeper for keeper in found if keeper.up]
    return tuple(sorted(alive or found, key=lambda keeper: keeper.name))
