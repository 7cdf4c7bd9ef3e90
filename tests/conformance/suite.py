"""Which part of Celery's integration suite runs."""

from __future__ import annotations

from pathlib import Path

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


def module_paths() -> list[str]:
    return [f"t/integration/{name}.py" for name in MODULES]


def read_selection(path: Path) -> list[str]:
    """Node ids of a list file: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]
