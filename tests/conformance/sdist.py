"""The tests that a package's sdist carries, taken out of it without the package itself: the installed one is tested."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "conformance"
DOWNLOAD_DEADLINE_S = 300


def carried_tests(package: str) -> Path:
    """The folder that holds `t/` and `pyproject.toml` of the installed version; fetched at the first call.

    Raises:
        RuntimeError: the sdist could not be fetched; the message carries pip's.
    """
    release = f"{package}-{version(package)}"
    directory = CACHE / release
    if not (directory / "pyproject.toml").is_file():
        _extract(_fetch(package), directory, release)
    return directory


def _fetch(package: str) -> Path:
    sdist = CACHE / f"{package}-{version(package)}.tar.gz"
    if sdist.is_file():
        return sdist
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", package, "--no-deps"]
    command += ["--dest", str(CACHE), f"{package}=={version(package)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_DEADLINE_S)
    if done.returncode or not sdist.is_file():
        raise RuntimeError(f"pip could not fetch the sdist {sdist.name}: {done.stderr.strip()}")
    return sdist


def _extract(sdist: Path, directory: Path, release: str) -> None:
    """Unpack `t/`, then `pyproject.toml`: the last file written marks the folder as complete."""
    with tarfile.open(sdist) as archive:
        wanted = [member for member in archive if member.name.startswith(f"{release}/t/")]
        wanted.append(archive.getmember(f"{release}/pyproject.toml"))
        for member in wanted:
            member.name = member.name.removeprefix(f"{release}/")
            archive.extract(member, directory, filter="data")
