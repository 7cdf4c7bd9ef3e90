"""Celery's integration suite: where it comes from and which part of it runs.

Only `t/` and `pyproject.toml` leave the sdist. Its `celery/` stays inside, so that the installed Celery is tested.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import celery

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "conformance"
DOWNLOAD_DEADLINE_S = 300

MODULES = (
    "test_tasks",
    "test_canvas",
    "test_inspect",
    "test_connection_recovery",
    "test_loader",
    "test_security",
    "test_serialization",
    "test_worker",
)

# Tests that hold only where the worker is a thread of the test process, with the reason.
DESELECTED = {
    "t/integration/test_inspect.py::test_Inspect::test_stats": "asserts that the worker's pid is the test's",
    "t/integration/test_worker.py::test_django_fixup_direct_worker": "changes the time zone of the test process",
}


def suite_directory(cache: Path = CACHE) -> Path:
    """The folder that holds `t/` of the installed Celery version; fetched at the first call.

    Raises:
        RuntimeError: the sdist could not be fetched; the message carries pip's.
    """
    directory = cache / f"celery-{celery.__version__}"
    if not (directory / "pyproject.toml").is_file():
        _extract(_fetch_sdist(cache), directory)
    return directory


def module_paths() -> list[str]:
    return [f"t/integration/{name}.py" for name in MODULES]


def read_selection(path: Path) -> list[str]:
    """Node ids of a list file: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def _fetch_sdist(cache: Path) -> Path:
    sdist = cache / f"celery-{celery.__version__}.tar.gz"
    if sdist.is_file():
        return sdist
    cache.mkdir(parents=True, exist_ok=True)
    (cache.parent / ".gitignore").write_text("*\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", "celery", "--no-deps"]
    command += ["--dest", str(cache), f"celery=={celery.__version__}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_DEADLINE_S)
    if done.returncode or not sdist.is_file():
        raise RuntimeError(f"pip could not fetch Celery's sdist {sdist.name}: {done.stderr.strip()}")
    return sdist


def _extract(sdist: Path, directory: Path) -> None:
    """Unpack `t/`, then `pyproject.toml`: the last file written marks the folder as complete."""
    prefix = f"celery-{celery.__version__}/"
    with tarfile.open(sdist) as archive:
        wanted = [member for member in archive if member.name.startswith(f"{prefix}t/")]
        wanted.append(archive.getmember(f"{prefix}pyproject.toml"))
        for member in wanted:
            member.name = member.name.removeprefix(prefix)
            archive.extract(member, directory, filter="data")
