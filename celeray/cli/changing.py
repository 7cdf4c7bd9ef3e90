"""What commands that change something share: who says so, and what they say when Redis does not answer."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from redis import RedisError

from celeray.cli.lazy import EXIT_UNREACHABLE, CliError
from celeray.cli.options import Place, environment_url, open_place

T = TypeVar("T")


def place_of_change(
    *,
    app: Any | None,
    redis_url: str | None,
    key_prefix: str | None,
    config_file: str | None,
    **_others: Any,
) -> Place:
    """Where a command with `change_options` writes."""
    url = redis_url or (None if app else environment_url())
    return open_place(app, url, key_prefix=key_prefix, config_file=config_file)


def user_at_host() -> str:
    """Who runs the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def answered(change: Callable[[], T]) -> T:
    """What a change returns.

    Raises:
        CliError: Redis does not answer.
    """
    try:
        return change()
    except RedisError as error:
        raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
