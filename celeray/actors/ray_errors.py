"""Ray's errors as text for a bridge's log and a task's history."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def describe(error: BaseException) -> str:
    """Class and message, without the colours that Ray puts into tracebacks."""
    message = _COLOUR.sub("", str(error)).strip()
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
