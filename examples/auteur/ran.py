"""Where and how a task ran, as each of them reports it."""

from __future__ import annotations

import os
import socket
from typing import Any

_seen: set[str] = set()


def ran(task: str, *, warm: bool | None = None) -> dict[str, Any]:
    """Host, process and devices of this run.

    Args:
        task: the task's name.
        warm: whether the model was loaded before; by default, whether this process ran the task before.
    """
    again = task in _seen
    _seen.add(task)
    return {
        "node": socket.gethostname(),
        "pid": os.getpid(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "warm": again if warm is None else warm,
    }
