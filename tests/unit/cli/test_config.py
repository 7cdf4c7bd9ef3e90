"""`config show`: every value, its origin, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from celeray.cli import main
from celeray.cli.config import MASK, mask, origins_of
from celeray.scheduler.settings import Settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELERAY_CONFIG", raising=False)


def show(*args: str) -> str:
    result = CliRunner().invoke(main, ["config", "show", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("celeray.toml").write_text("window = 99\nvram_headroom_mib = 5\n")
    monkeypatch.setenv("CELERAY_VRAM_HEADROOM_MIB", "7")
    found = json.loads(show("--origin", "-o", "json"))
    assert found["window"] == {"value": 99, "origin": "file celeray.toml"}
    assert found["vram_headroom_mib"] == {"value": 7, "origin": "environment CELERAY_VRAM_HEADROOM_MIB"}
    assert found["api_port"]["origin"] == "default"


def test_nested_variables_and_the_apps_conf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERAY_ROUTES__FILM", "io.storage")
    conf = {"celeray_window": 5}
    origins = origins_of(Settings(), conf, None)
    assert origins["routes"] == "environment CELERAY_ROUTES__FILM"
    assert origins["window"] == "app.conf.celeray_window"


def test_the_table_has_a_line_a_setting() -> None:
    lines = show().splitlines()
    assert lines[0].split() == ["SETTING", "VALUE"]
    assert len(lines) == len(Settings.model_fields) + 1
    assert show("--origin").splitlines()[0].split() == ["SETTING", "ORIGIN", "VALUE"]


def test_secrets_are_masked() -> None:
    assert mask("api_token", "abc") == MASK
    assert mask("api_token", None) is None
    assert mask("api_tokens_file", "a/tokens.json") == "a/tokens.json"
    assert mask("api_read_requires_token", True) is True
    assert mask("runtime_env", {"env_vars": {"HF": "x"}, "pip": ["a"]}) == {
        "env_vars": {"HF": MASK},
        "pip": ["a"],
    }
    assert mask("ray_address", "ray://u:pw@h:1") == "ray://u:**@h:1"
    assert mask("workers", {"db_password": "x"}) == {"db_password": MASK}


def test_a_wrong_setting_is_a_usage_error_that_names_it() -> None:
    Path("celeray.toml").write_text("windoow = 99\n")
    result = CliRunner().invoke(main, ["config", "show"])
    assert result.exit_code == 2
    assert "windoow" in result.output
