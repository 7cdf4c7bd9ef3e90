"""Ray's errors: what they mean, and as text for a bridge's log and a task's history."""

from __future__ import annotations

import re

DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
"""gRPC's status codes."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def describe(error: BaseException) -> str:
    """Class and message, without the colours that Ray puts into tracebacks."""
    message = _COLOUR.sub("", str(error)).strip()
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def is_connection_error(error: BaseException) -> bool:
    """Whether Ray itself can't be reached. Any other error is about what was asked of it.

    An RpcError of another code is such: RESOURCE_EXHAUSTED, say, for a message that is too large.
    """
    # Not above: the driver imports this module before it prepares Ray's environment.
    from ray.exceptions import LocalRayletDiedError, RpcError

    if isinstance(error, RpcError):
        return error.rpc_code in (DEADLINE_EXCEEDED, UNAVAILABLE)
    return isinstance(error, LocalRayletDiedError | ConnectionError)
