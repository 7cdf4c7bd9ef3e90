"""`celeray token`: the secret is shown once, the list shows none, and files of others are refused."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, matching
from celeray.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CELERAY_CONFIG", "CELERAY_STATE_DIR", "CELERAY_API_TOKENS_FILE"):
        monkeypatch.delenv(name, raising=False)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["token", *args])


def test_create_prints_the_token_alone_on_stdout(tmp_path: Path) -> None:
    result = run("create", "--role", "operator", "--days", "7", "--note", "ci")
    assert result.exit_code == 0, result.output
    text = result.stdout.strip()
    assert result.stdout == f"{text}\n"
    path = tmp_path / ".celeray" / "api_tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = matching(TokenFile(path).tokens(), text, time.time())
    assert found is not None
    assert (found.role, found.note) == (Role.OPERATOR, "ci")
    assert found.expires_at - found.created_at == 7 * 86_400
    assert found.id in result.stderr
    assert text not in result.stderr


def test_list_shows_no_secret_and_revoke_takes_one_away() -> None:
    assert run("list").output == "no tokens\n"
    texts = [run("create", "--role", role).stdout.strip() for role in ("viewer", "admin")]
    ids = [text.split("_")[1] for text in texts]
    table, document = run("list"), run("list", "-o", "json")
    rows = [line.split() for line in table.output.splitlines()[1:]]
    assert [(row[0], row[1], row[-2]) for row in rows] == list(
        zip(ids, ("viewer", "admin"), ["valid"] * 2, strict=True)
    )
    shown = json.loads(document.output)["tokens"]
    assert [item["id"] for item in shown] == ids
    assert set(shown[0]) == {"id", "role", "created_at", "expires_at", "expired", "note"}
    for output in (table.output, document.output):
        assert not any(text.split("_", 2)[2] in output for text in texts)
    assert run("revoke", ids[0]).exit_code == 0
    assert [item["id"] for item in json.loads(run("list", "-o", "json").output)["tokens"]] == ids[1:]
    again = run("revoke", ids[0])
    assert (again.exit_code, ids[0] in again.output) == (1, True)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--role", "root"),
        ("--role", "VIEWER"),
        ("--role", "viewer", "--days", "0"),
        ("--role", "viewer", "--days", "367"),
        ("--role", "viewer", "--note", "a\nb"),
    ],
)
def test_bad_requests_make_no_file(args: tuple[str, ...], tmp_path: Path) -> None:
    assert run("create", *args).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_the_settings_and_another(tmp_path: Path) -> None:
    Path("celeray.toml").write_text('api_tokens_file = "own/tokens.json"\n')
    run("create", "--role", "viewer")
    assert len(TokenFile(tmp_path / "own" / "tokens.json").tokens()) == 1
    run("create", "--role", "viewer", "--file", "other.json")
    assert len(TokenFile(tmp_path / "other.json").tokens()) == 1


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    run("create", "--role", "viewer")
    (tmp_path / ".celeray" / "api_tokens.json").chmod(0o644)
    for command in (("list",), ("create", "--role", "viewer"), ("revoke", "00000000")):
        result = run(*command)
        assert (result.exit_code, "chmod 600" in result.output) == (2, True)
