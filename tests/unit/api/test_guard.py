"""Which hosts may be asked, and where the API may listen."""

from __future__ import annotations

import socket

import pytest

from celeray.api.guard import Guard, check_bind
from celeray.scheduler.errors import ConfigurationError


async def nothing(*_: object) -> None:
    """An ASGI app that does nothing."""


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "::1", "10.1.2.3", "gpu.example", socket.gethostname().lower()]
)
def test_names_that_are_ours(host: str) -> None:
    assert Guard(nothing, ["GPU.example"]).allows(host)


@pytest.mark.parametrize("host", ["", "example", "127.0.0.1.example", "localhost.example", "1.2.3"])
def test_names_that_are_not(host: str) -> None:
    assert not Guard(nothing).allows(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    check_bind(host, allow_remote=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "gpu.example"])
def test_anything_else_does(host: str) -> None:
    with pytest.raises(ConfigurationError, match="api_allow_remote"):
        check_bind(host, allow_remote=False)
    check_bind(host, allow_remote=True)
