"""The bench works: both sides drain what was loaded, and the printed object has its parts. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conformance.sdist import REPOSITORY

DEADLINE_S = 280


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_prints_one_object_with_both_sides() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert {"machine", "settings", "throughput", "latency_ms", "routing_ms"} <= report.keys()
    for mode in ("ignored", "stored"):
        assert report["throughput"][mode]["ratio"] > 0
        assert report["throughput"][mode]["ratio_to_plain"] > 0
    for side, watched in (("prefork", True), ("bridge", True), ("prefork-plain", False)):
        assert report["settings"][side]["task_track_started"] is watched
        assert report["settings"][side]["worker_send_task_events"] is watched
        assert report["settings"][side]["task_acks_late"] is True
        assert 0 < report["latency_ms"][side]["p50"] <= report["latency_ms"][side]["p99"]
    assert report["routing_ms"]["p95"] > 0
    for mode in ("ignored", "stored"):
        assert report["cpu_queue"][mode]["ratio"] > 0
    assert 0 < report["urgent_ms"]["p50"] <= report["urgent_ms"]["max"]
