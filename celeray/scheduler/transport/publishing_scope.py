"""Within which scope the message that is being sent is published once; see `celeray.scheduler.once`."""

from __future__ import annotations

from contextvars import ContextVar

publishing_scope: ContextVar[str | None] = ContextVar("celeray_publishing_scope", default=None)
"""None: as often as it is sent."""
PUBLISHED_TTL_S = 3600
"""A repeat of the run that published comes within a lease time of its crash, in front of its queue; later only where no
worker takes messages. As long as a record of fences lives at least, which the repeat needs as well."""
