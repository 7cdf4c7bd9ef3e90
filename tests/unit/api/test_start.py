"""With what the API may be served at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeray.api.access import check_start
from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, mint
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

CLOCK = ManualClock(1_000.0)


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(api_tokens_file=tmp_path / "tokens.json", **changes)  # type: ignore[arg-type]


def add(tmp_path: Path, *, valid_s: float) -> None:
    TokenFile(tmp_path / "tokens.json").add(mint(Role.VIEWER, now=1_000.0, valid_s=valid_s)[0])


def test_on_loopback_no_token_is_needed(tmp_path: Path) -> None:
    check_start(settings(tmp_path), CLOCK)


def test_another_address_has_to_be_allowed_even_with_a_token(tmp_path: Path) -> None:
    add(tmp_path, valid_s=60)
    with pytest.raises(ConfigurationError, match="api_allow_remote"):
        check_start(settings(tmp_path, api_host="0.0.0.0"), CLOCK)


@pytest.mark.parametrize(
    "changes",
    [{"api_host": "0.0.0.0", "api_allow_remote": True}, {"api_read_requires_token": True}],
)
def test_where_everything_needs_a_token_there_has_to_be_a_valid_one(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    served = settings(tmp_path, **changes)
    for valid_s in (None, 0.0):
        if valid_s is not None:
            add(tmp_path, valid_s=valid_s)
        with pytest.raises(ConfigurationError, match="celeray token create"):
            check_start(served, CLOCK)
    add(tmp_path, valid_s=60)
    check_start(served, CLOCK)


def test_a_file_that_cannot_be_used_is_no_start(tmp_path: Path) -> None:
    add(tmp_path, valid_s=60)
    (tmp_path / "tokens.json").chmod(0o644)
    with pytest.raises(ConfigurationError, match="0644"):
        check_start(settings(tmp_path), CLOCK)


def test_where_the_tokens_are(tmp_path: Path) -> None:
    assert Settings().tokens_file == Path(".celeray/api_tokens.json")
    assert Settings(state_dir=tmp_path).tokens_file == tmp_path / "api_tokens.json"
    assert settings(tmp_path).tokens_file == tmp_path / "tokens.json"
