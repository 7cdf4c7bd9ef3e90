"""A message as it comes under a lease."""

from __future__ import annotations

from json import JSONDecoder
from typing import Any

from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import object_hook

from celeray.scheduler.submission.deduplication import HOLD_HEADER
from celeray.scheduler.transport.lease import Lease

_decode = JSONDecoder(object_hook=object_hook).decode
"""As `kombu.utils.json.loads`, which makes a decoder for each call."""
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class UnreadableMessageError(Exception):
    """Well-formed for the claim script, and yet kombu can't make a message of it."""


class Payload(dict[str, Any]):
    """A decoded message, with its lease."""

    lease: Lease
    text: bytes
    """As it was on its list."""


class Message(virtual.Message):
    """Acked with the tag of its lease; what `properties` says is the name under which it is held."""

    level: int = 0
    """Of the list that it was claimed from; 0 is served first."""
    fence: int | None = None
    """Rises with every claim of any message. None: not claimed, a fanout message."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        lease = getattr(payload, "lease", None)
        if lease is None:
            super().__init__(payload, channel=channel, **kwargs)
            return
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except _BROKEN as error:
            raise UnreadableMessageError(f"{type(error).__name__}: {error}") from error
        self.delivery_tag = lease.delivery_tag
        self.fence = lease.fence
        self.level = lease.level


def read_payload(raw: bytes, lease: Lease, *, was_delivered: bool) -> Payload:
    """Decode what the claim script has sent. After a run that began, or a requeueing, it says that it is redelivered.

    Raises:
        UnreadableMessageError: the bytes are no message for kombu.
    """
    try:
        payload = Payload(_decode(bytes_to_str(raw)))
        if was_delivered:
            payload["headers"]["redelivered"] = True
            payload["properties"]["delivery_info"]["redelivered"] = True
    except _BROKEN as error:
        raise UnreadableMessageError(f"{type(error).__name__}: {error}") from error
    payload.lease, payload.text = lease, raw
    headers = payload.get("headers")
    hold = headers.get(HOLD_HEADER) if isinstance(headers, dict) else None
    if isinstance(hold, str):
        lease.hold = hold
    return payload
