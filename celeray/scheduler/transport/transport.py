"""The transports, one for each of kombu's on Redis."""

from __future__ import annotations

import ssl
from typing import Any

from kombu.transport import redis as kombu_redis

from celeray.scheduler.transport.channel import Channel, SentinelChannel
from celeray.scheduler.transport.poller import LeasePoller


class Transport(kombu_redis.Transport):
    """`redis://`, and `rediss://` where the connection's class or its `ssl` option says so."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = LeasePoller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.loop = loop
        super().register_with_event_loop(connection, loop)


class SSLTransport(Transport):
    """`rediss://` where the class is chosen by name, and kombu does not look at the scheme."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        # What kombu does itself for the name "rediss" (`_init_params` in kombu/connection.py).
        client.ssl = client.ssl or {"ssl_cert_reqs": ssl.CERT_NONE}
        super().__init__(client, **kwargs)


class SentinelTransport(Transport, kombu_redis.SentinelTransport):
    """`sentinel://`."""

    Channel = SentinelChannel
