"""What was made is kept, verified, and only then removed from the work folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.auteur.film import Folders
from examples.auteur.pictures import sha256
from examples.auteur.storage import ChecksumError, cleanup_temp_files, save_to_storage, upload_to_cloud


@pytest.fixture
def made(folders: Folders) -> list[dict[str, str]]:
    work = Path(folders.work)
    work.mkdir()
    for name in ("one", "two"):
        (work / name).write_text(f"content of {name}")
    return [{"path": str(work / "one")}, {"path": str(work / "two")}]


def test_storing_writes_a_manifest(folders: Folders, made: list[dict[str, str]]) -> None:
    answer = save_to_storage(made, folders.library)

    manifest = json.loads(Path(answer["path"]).read_text())
    assert sorted(manifest) == ["one", "two"]
    assert manifest["one"]["sha256"] == sha256(Path(made[0]["path"]))
    assert {path.name for path in Path(folders.library).iterdir()} == {"one", "two", "manifest.json"}


def test_storing_one_answer(folders: Folders, made: list[dict[str, str]]) -> None:
    assert len(save_to_storage(made[0], folders.library)["stored"]) == 1


def test_upload_names_objects_by_content_and_repeats(folders: Folders, made: list[dict[str, str]]) -> None:
    saved = save_to_storage(made, folders.library)
    first = upload_to_cloud(saved, folders.bucket)

    assert upload_to_cloud(saved, folders.bucket)["objects"] == first["objects"]
    for entry in first["objects"]:
        assert sha256(Path(folders.bucket) / entry["key"]) == entry["key"].split("/")[1]
    assert sum(path.is_file() for path in Path(folders.bucket).rglob("*")) == 2


def test_upload_of_changed_content_fails_and_leaves_nothing(
    folders: Folders, made: list[dict[str, str]]
) -> None:
    saved = save_to_storage(made[0], folders.library)
    Path(saved["stored"][0]["path"]).write_text("changed behind our back")

    with pytest.raises(ChecksumError, match="content is not"):
        upload_to_cloud(saved, folders.bucket)

    assert not [path for path in Path(folders.bucket).rglob("*") if path.is_file()]


def test_cleanup_removes_files_alone(folders: Folders, made: list[dict[str, str]]) -> None:
    (Path(folders.work) / "folder").mkdir()
    uploaded = upload_to_cloud(save_to_storage(made, folders.library), folders.bucket)

    answer = cleanup_temp_files(uploaded, folders.work)

    assert (answer["removed"], answer["freed_bytes"]) == (2, 2 * len("content of one"))
    assert answer["objects"] == uploaded["objects"]
    assert [path.name for path in Path(folders.work).iterdir()] == ["folder"]
    assert cleanup_temp_files({}, str(Path(folders.work) / "missing"))["removed"] == 0
