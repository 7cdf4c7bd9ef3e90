"""Messages under leases: a kombu transport for Redis that loses none and runs none twice while its worker lives.

Chosen by the setting `transport = "leased"` of an installed app. A plain worker without celeray installed takes it by
`broker_transport = "celeray.scheduler.transport:Transport"` (`SSLTransport` for rediss://, `SentinelTransport`).
"""

from celeray.scheduler.transport.transport import SentinelTransport, SSLTransport, Transport

__all__ = ["SSLTransport", "SentinelTransport", "Transport"]
