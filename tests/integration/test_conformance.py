"""Subsets of Celery's and kombu's own integration suites against the bridge and the transport, as CI runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.kombu_suite import HEADING, run_kombu_suite
from tests.conformance.sdist import REPOSITORY
from tests.conformance.verdict import documented_exceptions

SUBSET = REPOSITORY / "tests" / "conformance" / "subset.txt"
DEADLINE_S = 540
pytestmark = pytest.mark.unmeasured


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
    assert bridge["counts"]["passed"] >= 20
    assert bridge["tasks_in_worker_process"] == 0
    assert bridge["tasks_outside_actors"] == 0
    assert bridge["tasks_by_actor"]


QUICK = "BaseExchangeTypes or Priority or Message or PublishBatch or event_loop or Restore"


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("keyword", [QUICK, ""], ids=["subset", "whole"])
def test_kombus_suite_passes_on_the_leased_transport(tmp_path: Path, keyword: str) -> None:
    run = run_kombu_suite("leased", tmp_path, ["-k", keyword])
    failures = {test.removeprefix("t/integration/") for test in run.report()["failures"]}
    documented = documented_exceptions(HEADING)
    assert {test.partition("[")[0] for test in failures} <= set(documented)
    assert run.report()["counts"]["passed"] > 30
