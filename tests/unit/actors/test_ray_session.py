"""What is prepared before Ray is imported: environment, token, address."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from celeray.actors.ray_session import check_address, ensure_token, prepare_environment
from celeray.scheduler.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_ray_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set and deleted again, so that what a test leaves behind is taken back."""
    for key in (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_USAGE_STATS_ENABLED",
        "RAY_DEDUP_LOGS",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        "RAY_COLOR_PREFIX",
        "RAY_enable_worker_prestart",
        "RAY_prestart_worker_first_driver",
    ):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_local_ray_gets_a_token_that_only_its_owner_reads(tmp_path: Path) -> None:
    prepare_environment(local=True)

    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_token_that_others_could_read_is_closed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("mine")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))

    ensure_token()

    assert token.read_text() == "mine"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_no_token_file_beside_a_token_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")

    ensure_token()

    assert not (tmp_path / ".ray").exists()


def test_what_the_user_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")

    prepare_environment(local=True)

    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert not (tmp_path / ".ray").exists()


def test_a_cluster_by_address_brings_its_own_token(tmp_path: Path) -> None:
    import os

    prepare_environment(local=False)

    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_enable_worker_prestart" not in os.environ
    assert not (tmp_path / ".ray").exists()


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"[Cc]onnection refused"):
            check_address(f"127.0.0.1:{taken.getsockname()[1]}")


def test_an_address_where_somebody_listens_is_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")


def test_rays_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ray://head:10001"):
        check_address("ray://head:10001")
