"""The file of the tokens: its rights, its content, and that a change is seen at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, mint
from celeray.scheduler.errors import ConfigurationError


def add_one(path: Path) -> str:
    token, _ = mint(Role.VIEWER, now=0.0, valid_s=60)
    TokenFile(path).add(token)
    return token.id


def test_no_file_is_no_tokens(tmp_path: Path) -> None:
    assert TokenFile(tmp_path / "none" / "tokens.json").tokens() == ()


def test_what_is_added_is_there_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "tokens.json"
    reader = TokenFile(path)
    ids = [add_one(path) for _ in range(3)]
    assert [token.id for token in reader.tokens()] == ids
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    removed = reader.remove(ids[1])
    assert removed is not None
    assert removed.id == ids[1]
    assert reader.remove(ids[1]) is None
    assert [token.id for token in TokenFile(path).tokens()] == [ids[0], ids[2]]
    assert {item.name for item in path.parent.iterdir()} == {"tokens.json", ".tokens.json.lock"}


def test_an_umask_of_others_makes_no_difference(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        add_one(tmp_path / "tokens.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tokens.json").stat().st_mode) == 0o600


def test_a_change_is_seen_and_an_unchanged_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.json"
    reader = TokenFile(path)
    first = add_one(path)
    assert [token.id for token in reader.tokens()] == [first]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
        reader.tokens()
    second = add_one(path)
    assert [token.id for token in reader.tokens()] == [first, second]
    path.unlink()
    assert reader.tokens() == ()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610])
def test_rights_of_others_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.json"
    reader = TokenFile(path)
    add_one(path)
    reader.tokens()
    path.chmod(mode)
    for file in (reader, TokenFile(path)):
        with pytest.raises(ConfigurationError, match=f"{mode:04o}.*chmod 600"):
            file.tokens()


def test_a_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="api_tokens_file="):
        TokenFile(tmp_path).tokens()


def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "tokens.json"
    add_one(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigurationError, match="12345"):
        TokenFile(path).tokens()


def document(**changes: object) -> dict[str, object]:
    token, _ = mint(Role.VIEWER, now=0.0, valid_s=60)
    return token.model_dump() | changes


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ('{"tokens": [], "other": 1}', "other"),
        (json.dumps({"tokens": [document(sha256="short")]}), "sha256"),
        (json.dumps({"tokens": [document(role="root")]}), "role"),
        (json.dumps({"tokens": [document(id="x")]}), "id"),
        (json.dumps({"tokens": [document(token="plain-secret")]}), "token"),
        (json.dumps({"tokens": [document(expires_at=None)]}), "expires_at"),
        (json.dumps({"tokens": [document(id="00000000")] * 2}), "twice"),
        (" " * (1 << 20) + "{}", "longer"),
    ],
)
def test_what_celeray_token_did_not_write_is_refused(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "tokens.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=named) as caught:
        TokenFile(path).tokens()
    assert "plain-secret" not in str(caught.value)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    # Not multiprocessing's own pool, which ends its processes by a signal.
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        ids = list(pool.map(add_one, [path] * 20))
    assert {token.id for token in TokenFile(path).tokens()} == set(ids)
