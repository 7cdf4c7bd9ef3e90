"""Which transport a connection of an installed app uses."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kombu.transport import redis as kombu_redis

from celeray.scheduler.transport.transport import SentinelTransport, Transport

LEASED = {kombu_redis.Transport: Transport, kombu_redis.SentinelTransport: SentinelTransport}


@lru_cache(maxsize=8)
def leased_connection_class(base: Any) -> Any:
    """`base`, a `kombu.Connection` or a subclass; the URL decides as ever, but kombu's Redis transports become ours.

    Naming our class as `broker_transport` would not do in general: kombu then skips what it does by the URL's scheme
    (TLS for `rediss`), and drops the name when it switches to an alternate URL (`switch` in kombu/connection.py).
    """

    class LeasedConnection(base):
        def get_transport_cls(self) -> Any:
            found = super().get_transport_cls()
            return LEASED.get(found, found)

    LeasedConnection.__name__ = LeasedConnection.__qualname__ = base.__name__
    return LeasedConnection
