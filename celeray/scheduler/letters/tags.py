"""The tag of a message that was sent again tells so, to the run that it leads to.

On Redis it is the delivery tag; on brokers that give a message another one with each delivery it is a header.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

PREFIX = "redriven-"
HEADER = "celeray_tag"
"""Of messages that a letter became, where the broker is no Redis (letters/foreign.py)."""


def redriven_tag() -> str:
    """A new tag for a message that is sent again. What a retry sends later has another one, without the prefix."""
    return f"{PREFIX}{uuid.uuid4()}"


def is_redriven(request: Any) -> bool:
    """Whether this is a run of a message that an operator sent again, and of no retry that came of it."""
    tags = (_member(request, "properties", "delivery_tag"), _member(request, "headers", HEADER))
    return any(isinstance(tag, str) and tag.startswith(PREFIX) for tag in tags)


def _member(request: Any, place: str, name: str) -> Any:
    found = getattr(request, place, None)
    return found.get(name) if isinstance(found, Mapping) else None
