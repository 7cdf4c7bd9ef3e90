"""The delivery tag of a message that was sent again tells so, to the run that it leads to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

PREFIX = "redriven-"


def redriven_tag() -> str:
    """A new tag for a message that is sent again. What a retry sends later has another one, without the prefix."""
    return f"{PREFIX}{uuid.uuid4()}"


def is_redriven(request: Any) -> bool:
    """Whether this is a run of a message that an operator sent again, and of no retry that came of it."""
    properties = getattr(request, "properties", None)
    tag = properties.get("delivery_tag") if isinstance(properties, Mapping) else None
    return isinstance(tag, str) and tag.startswith(PREFIX)
