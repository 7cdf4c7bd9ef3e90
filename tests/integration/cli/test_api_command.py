"""`celeray api`: where it listens, and what it refuses."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from celeray.api.serve import listen
from celeray.cli import main
from celeray.scheduler.errors import ConfigurationError

pytestmark = pytest.mark.integration


def test_a_remote_address_is_a_usage_error(redis_url: str) -> None:
    result = CliRunner().invoke(main, ["api", "--redis-url", redis_url, "--host", "0.0.0.0", "--port", "0"])
    assert result.exit_code == 2
    assert "api_allow_remote" in result.output


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"api_port={port}"):
            listen("127.0.0.1", port)


def test_ipv6_where_there_is_one() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        listener = listen("::1", 0)
    except ConfigurationError:
        pytest.skip("no IPv6 loopback")
    listener.close()


def test_without_any_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(main, ["api"])
    assert result.exit_code == 2
    assert "--redis-url" in result.output
