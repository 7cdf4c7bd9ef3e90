"""The demo as a newcomer runs it: the whole film on the whole stack, then everything ends in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
TASKS = {
    "generate_image": 3,
    "generate_video": 1,
    "apply_style_transfer": 2,
    "run_upscaling": 2,
    "analyze_scene": 2,
    "extract_metadata": 2,
    "generate_thumbnail": 2,
    "create_preview": 1,
    "save_to_storage": 1,
    "upload_to_cloud": 1,
    "cleanup_temp_files": 1,
}


@pytest.mark.slow
def test_the_film_runs_and_nothing_is_left_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.auteur.demo", "--once", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=390)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    ran = [row[1].strip() for row in rows if len(row) == 9]
    assert {task: ran.count(task) for task in TASKS} == TASKS
    devices = {row[1].strip(): row[4].strip() for row in rows if len(row) == 9}
    assert all(devices[task].startswith("GPU-sim-") for task in ("generate_image", "generate_video"))
    assert devices["analyze_scene"] == ""
    assert "warm: read 'TAKE TWO', loaded in 0.00 s" in done.stdout
    assert "Status (GET /v1/status): ok; Redis up, Ray up" in done.stdout
    assert {path.name for path in (tmp_path / "library").iterdir()} >= {"auteur-film.webp", "manifest.json"}
    assert not [
        p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]
