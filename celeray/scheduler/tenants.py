"""Whom a message is for: the header `tenant`, by which VRAM is shared out fairly (placement/fair_share.py). Pure.

A message without it is of no tenant. What a running task publishes is its tenant's, unless the call says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeray.scheduler.errors import RequirementError

HEADER = "tenant"
NAME_MAX = 64
BOUND = f"a name of 1 to {NAME_MAX} printable characters, not all of them spaces"
NOBODY = ""
"""Stands for all tasks that name no tenant, beside those that do."""
WEIGHT_LEAST, WEIGHT_MOST = 0.001, 1_000_000.0


def is_name(value: Any) -> bool:
    """Whether a tenant may be called so."""
    return (
        isinstance(value, str) and 0 < len(value) <= NAME_MAX and value.isprintable() and not value.isspace()
    )


def tenant_of(headers: Mapping[str, Any]) -> str | None:
    """The tenant of a message by its headers. None: it names none, or has a header of this name that is not celeray's.

    Apps may have had such a header, a number say, before celeray came: their messages run as before.
    """
    value = headers.get(HEADER)
    return value if is_name(value) else None


def check(headers: Mapping[str, Any]) -> None:
    """For a new message to a bridge.

    Raises:
        RequirementError: what it names is no name.
    """
    value = headers.get(HEADER)
    if value is not None and not is_name(value):
        raise RequirementError(HEADER, value, BOUND)


def published_by(headers: Mapping[str, Any], running: Mapping[str, Any] | None) -> str | None:
    """The tenant of a message that is about to be published.

    Args:
        headers: of the call. A tenant of None there takes the message from the running task's tenant.
        running: headers of the task that publishes it. None: no task does.
    """
    return tenant_of(headers if HEADER in headers or not running else running)
