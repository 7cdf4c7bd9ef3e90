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


def read_tenant(headers: Mapping[str, Any]) -> str | None:
    """The tenant of a message by its headers. None: it names none.

    Raises:
        RequirementError: what it names is no name.
    """
    value = headers.get(HEADER)
    if value is not None and not is_name(value):
        raise RequirementError(HEADER, value, BOUND)
    return value


def published_by(headers: Mapping[str, Any], running: Mapping[str, Any] | None) -> str | None:
    """The tenant of a message that is about to be published.

    Args:
        headers: of the call. A tenant of None there takes the message from the running task's tenant.
        running: headers of the task that publishes it. None: no task does.

    Raises:
        RequirementError: what the call names is no name.
    """
    if HEADER in headers or not running:
        return read_tenant(headers)
    inherited = running.get(HEADER)
    return inherited if is_name(inherited) else None
