"""Which messages are alike to placement: those of one executor class, one request and one tenant.

The producer writes it into a header, so that Redis can look past a class of which the bridge holds enough. A message
without the header, from a stock producer, is of the class of its task's name and its tenant: lua/claim.lua reads both
the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from celeray.scheduler import tenants
from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.model import ResourceRequest

HEADER = "celeray_class"


@lru_cache(maxsize=4096)
def message_class(task_name: str, request: ResourceRequest, tenant: str | None = None) -> str:
    """The class as the header has it: 12 hexadecimal digits, the same in every process."""
    text = f"{executor_class(task_name, request)}\n{request!r}"
    if tenant is not None:
        text += f"\n{tenant}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_class(headers: Mapping[str, Any]) -> str:
    """The class of a message by its headers. Empty where nothing tells it."""
    if isinstance(told := headers.get(HEADER), str):
        return told
    name, tenant = headers.get("task"), headers.get(tenants.HEADER)
    if not isinstance(name, str):
        return ""
    return f"{name}\n{tenant}" if isinstance(tenant, str) else name
