"""Keeping what was made. IO work: queue io.storage.

The library is a folder of files by name. The cloud is a stand-in: a second folder on the same disk, laid out as
an object store would be (objects named by the SHA-256 of their content) and verified as an upload would be.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

from examples.auteur.app import app
from examples.auteur.pictures import path_of, sha256
from examples.auteur.ran import ran


class ChecksumError(RuntimeError):
    """A stored file's content is not what was sent."""


@app.task(name="auteur.save_to_storage")
def save_to_storage(made: dict[str, Any] | list[dict[str, Any]], library: str) -> dict[str, Any]:
    """Copy what the tasks before made into the library, with a manifest of checksums. Safe to repeat."""
    folder = Path(library)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for answer in made if isinstance(made, list) else [made]:
        source = path_of(answer)
        target = folder / source.name
        _copy(source, target)
        stored[source.name] = {"path": str(target), "bytes": target.stat().st_size, "sha256": sha256(target)}
    manifest = folder / "manifest.json"
    _write(manifest, json.dumps(stored, indent=1, sort_keys=True))
    return {"path": str(manifest), "stored": list(stored.values()), "ran": ran("save_to_storage")}


@app.task(name="auteur.upload_to_cloud")
def upload_to_cloud(saved: dict[str, Any], bucket: str) -> dict[str, Any]:
    """Put each stored file into the bucket under its checksum, and read it back to verify it. Safe to repeat.

    Raises:
        ChecksumError: the object's content differs from the manifest's checksum.
    """
    objects = []
    for entry in saved["stored"]:
        digest = entry["sha256"]
        target = Path(bucket) / digest[:2] / digest
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(Path(entry["path"]), target)
        if sha256(target) != digest:
            target.unlink()
            raise ChecksumError(f"{entry['path']}: content is not {digest}")
        objects.append({"key": f"{digest[:2]}/{digest}", "bytes": entry["bytes"]})
    return {"path": bucket, "objects": objects, "ran": ran("upload_to_cloud")}


@app.task(name="auteur.cleanup_temp_files")
def cleanup_temp_files(uploaded: dict[str, Any], work: str) -> dict[str, Any]:
    """Remove the files (not the folders) of the work folder; hands on which objects were kept."""
    removed = freed = 0
    for path in sorted(Path(work).iterdir()) if Path(work).is_dir() else ():
        if path.is_file():
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
            removed += 1
    return {
        "path": work,
        "removed": removed,
        "freed_bytes": freed,
        "objects": uploaded.get("objects", []),
        "ran": ran("cleanup_temp_files"),
    }


def _copy(source: Path, target: Path) -> None:
    """The target appears whole or not at all, also when two copies race."""
    shutil.copyfile(source, part := _part(target))
    part.replace(target)


def _write(target: Path, text: str) -> None:
    (part := _part(target)).write_text(text, encoding="utf-8")
    part.replace(target)


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid4().hex}")
