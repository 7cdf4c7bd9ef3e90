"""`celeray up --head`: what the process in the background is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SECRET = "redis://:secret@127.0.0.1:1/0"
APP = """
import json, os, sys
with open("seen.json", "w") as file:
    json.dump({"argv": sys.orig_argv, "url": os.environ.get("CELERY_BROKER_URL")}, file)
raise ImportError("seen enough")
"""


def test_the_url_is_handed_on_but_not_on_the_command_line(tmp_path: Path) -> None:
    """Every user of the machine can read that one."""
    (tmp_path / "probe.py").write_text(APP)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "CELERAY_"))
    }

    done = subprocess.run(
        [sys.executable, "-m", "celeray.cli", "up", "--head", "-A", "probe", "--redis-url", SECRET],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert "seen enough" in done.stderr, "it was the one in the background that imported the app"
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert "up" in seen["argv"]
    assert "--head" not in seen["argv"]
    assert "secret" not in str(seen["argv"])
    assert seen["url"] == SECRET
