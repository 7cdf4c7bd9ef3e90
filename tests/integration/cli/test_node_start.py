"""`node start` becomes the real `ray start`, here with `--help`, so that nothing is left running."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("devices", [(), ("--simulate-gpus", "1x8GiB")])
def test_it_becomes_ray_start(devices: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "celeray.cli", "node", "start", *devices, "--", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "start [OPTIONS]" in done.stdout
    assert "--resources" in done.stdout
