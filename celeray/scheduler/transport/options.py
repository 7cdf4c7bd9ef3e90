"""What of `broker_transport_options` is the leased transport's own. The rest is kombu's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from celeray.scheduler.errors import ConfigurationError

MIB = 1024 * 1024
BOUNDS: Mapping[str, tuple[float, float]] = {
    "lease_s": (0.1, 3600),
    "claim_max_messages": (1, 10_000),
    "claim_max_bytes": (1, 512 * MIB),
    "max_message_bytes": (1024, 512 * MIB),
    "poison_after": (0, 1_000_000),
    "idle_check_s": (0.05, 60),
}


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """Each is a key of `broker_transport_options` under the same name."""

    lease_s: float = 30.0
    """How long a message stays with a worker that stopped renewing."""
    claim_max_messages: int = 128
    """Messages taken at once. Redis serves nobody else meanwhile: about 10 us each."""
    claim_max_bytes: int = 8 * MIB
    """Bytes taken at once; a single message may be larger."""
    max_message_bytes: int = 16 * MIB
    """Larger ones are refused at publish. A body of 10 MiB has 13.4 MiB as base64, plus its headers."""
    poison_after: int = 3
    """A message of which so many runs have begun and none has ended is parked. 0: never."""
    idle_check_s: float = 1.0
    """An idle worker looks into its queues so often, besides being told of every change."""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> LeaseOptions:
        """Those of a connection's transport options.

        Raises:
            ConfigurationError: a value is no number or out of its bound; or acks are switched off.
        """
        if not options.get("ack_emulation", True):
            raise ConfigurationError(
                "broker_transport_options.ack_emulation=False: a lease is held until the ack; "
                "leave it out, or use kombu's own transport"
            )
        given = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        for name, value in given.items():
            low, high = BOUNDS[name]
            whole = isinstance(getattr(cls(), name), int)
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise ConfigurationError(
                    f"broker_transport_options.{name}={value!r}: expected {kind} from {low:g} to {high:g}"
                )
        return cls(**given)
