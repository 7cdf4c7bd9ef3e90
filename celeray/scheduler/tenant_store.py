"""What tenants have used, in the broker's Redis: any number of bridges add to it, and each reads what all have used.

A slice of time has a hash of its own, whose fields are tenants; Redis lets it expire when nobody reads it any more.
All writes are increments, so the order in which bridges write does not count. A write whose reply was lost is repeated:
that much then counts twice, and none is lost. Bridges with another half-life have other slices, and other books.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis

from celeray.scheduler.keys import Keys


class TenantStore:
    """Every method raises `redis.RedisError` when Redis does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys, *, slice_ms: int, slices: int) -> None:
        """
        Args:
            slice_ms: length of a slice.
            slices: how many are kept.
        """
        # Typed loosely: redis-py's own annotations are unions over both protocols and sync and async clients.
        self._client: Any = client
        self._keys = keys
        self._slice_ms = slice_ms
        self._live_ms = slice_ms * (slices + slices // 8)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def add(self, used: Mapping[int, Mapping[str, int]]) -> None:
        """Add MiB times milliseconds, by number of the slice and tenant, in one pipeline."""
        if not used:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for number, of_slice in used.items():
                key = self._keys.tenant_use(self._slice_ms, number)
                for tenant, mib_ms in of_slice.items():
                    pipe.hincrby(key, tenant, mib_ms)
                pipe.pexpire(key, self._live_ms)
            pipe.execute()

    def read(self, numbers: Iterable[int]) -> dict[int, dict[str, int]]:
        """What all have used in these slices."""
        wanted = list(numbers)
        with self._client.pipeline(transaction=False) as pipe:
            for number in wanted:
                pipe.hgetall(self._keys.tenant_use(self._slice_ms, number))
            replies = pipe.execute()
        return {
            number: {tenant.decode(): int(mib_ms) for tenant, mib_ms in reply.items()}
            for number, reply in zip(wanted, replies, strict=True)
        }
