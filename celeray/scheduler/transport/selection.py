"""Which transport a connection of an installed app uses."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.utils.collections import HashedSeq

from celeray.scheduler.transport.transport import SentinelTransport, Transport

LEASED = {kombu_redis.Transport: Transport, kombu_redis.SentinelTransport: SentinelTransport}


class LeasedMixin:
    """Goes before a `kombu.Connection`."""

    def get_transport_cls(self) -> Any:
        connection: Any = super()
        found = connection.get_transport_cls()
        return LEASED.get(found, found)

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:  # noqa: N802 - kombu's name
        """kombu's pool makes connections of a class of its own, which would publish by kombu's transport."""
        return LeasedPool(self, limit, **kwargs)

    def __eqhash__(self) -> HashedSeq:
        # kombu keeps one pool a URL for the whole process, also for apps that use its own transport.
        connection: Any = super()
        return HashedSeq("leased", *connection.__eqhash__())


class LeasedPooledConnection(LeasedMixin, PooledConnection):
    """A connection of a pool."""


class LeasedPool(ConnectionPool):
    """A pool of such connections."""

    def new(self) -> LeasedPooledConnection:
        return LeasedPooledConnection(self, **dict(self.connection._info(resolve=False)))


@lru_cache(maxsize=8)
def leased_connection_class(base: Any) -> Any:
    """`base`, a `kombu.Connection` or a subclass; the URL decides as ever, but kombu's Redis transports become ours.

    Naming our class as `broker_transport` would not do in general: kombu then skips what it does by the URL's scheme
    (TLS for `rediss`), and drops the name when it switches to an alternate URL (`switch` in kombu/connection.py).
    """

    return type(base.__name__, (LeasedMixin, base), {"__module__": __name__})
