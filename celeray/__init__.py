"""A GPU cluster behind Celery: tasks on `gpu.*` queues run on Ray, on the device where their VRAM fits.

Importing this package is cheap: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeray.scheduler.errors import OutOfGpuMemoryError as OutOfGpuMemoryError
    from celeray.scheduler.fencing import current_fence as current_fence
    from celeray.scheduler.installation import install as install
    from celeray.scheduler.require import require as require
    from celeray.scheduler.settings import Settings as Settings
    from celeray.scheduler.submission.batch import submit_batch as submit_batch

    __version__: str

__all__ = [
    "OutOfGpuMemoryError",
    "Settings",
    "__version__",
    "current_fence",
    "install",
    "require",
    "submit_batch",
]

_HOMES = {
    "current_fence": "celeray.scheduler.fencing",
    "OutOfGpuMemoryError": "celeray.scheduler.errors",
    "install": "celeray.scheduler.installation",
    "require": "celeray.scheduler.require",
    "Settings": "celeray.scheduler.settings",
    "submit_batch": "celeray.scheduler.submission.batch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("celeray")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
