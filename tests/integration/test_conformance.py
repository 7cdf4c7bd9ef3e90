"""A subset of Celery's own integration suite against the bridge, as CI runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.suite import REPOSITORY

SUBSET = REPOSITORY / "tests" / "conformance" / "subset.txt"
DEADLINE_S = 540


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_subset_passes_on_the_bridge_and_runs_in_actors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.conformance", "--worker", "bridge", "--select", str(SUBSET)]
    done = subprocess.run(
        [*command, "--dir", str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
    )
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert done.returncode == 0
    bridge = report["workers"]["bridge"]
    assert bridge["counts"]["passed"] >= 30
    assert bridge["tasks_in_worker_process"] == 0
    assert bridge["tasks_outside_actors"] == 0
    assert bridge["tasks_by_actor"]
