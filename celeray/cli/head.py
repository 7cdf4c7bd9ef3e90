"""`celeray up --head`: runs `celeray up` in the background, for a start command that must return, such as `ray up`'s.

Running it again is safe: while one runs in the state folder, a second call says so and does nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from celeray.scheduler.errors import CelerayError

READY_DEADLINE_S = 180.0
POLL_S = 0.3
TAIL_LINES = 20


def start_in_background(arguments: Sequence[str], state_dir: Path, environment: Mapping[str, str]) -> None:
    """Start `celeray up` as a daemon and return when its API says that it is ready.

    Args:
        arguments: of that `celeray up`. Every user of the machine can read them, so no secret may be among them.
        state_dir: its state folder, where its log goes.
        environment: what it gets beside this process's own.

    Raises:
        CelerayError: it ended, or is not ready within 3 minutes; shows the end of its log.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (pid := running_pid(state_dir)) is not None:
        click.echo(f"celeray up runs already in {state_dir} (pid {pid}): nothing to do")
        return
    log_path = state_dir / "up.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own arguments once more
            [sys.executable, "-m", "celeray.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A session of its own: the terminal of `ssh -tt` goes away when this command returns.
            start_new_session=True,
            env={**os.environ, **environment, "CELERAY_OF_RAY_UP": "1"},
        )
    (state_dir / "up.pid").write_text(str(process.pid), "utf-8")
    url = _wait_until_ready(process, state_dir, log_path)
    click.echo(f"celeray up runs in the background (pid {process.pid}); API on {url}, log in {log_path}")


def running_pid(state_dir: Path) -> int | None:
    """Pid of the `celeray up` that holds the folder. None: there is none."""
    try:
        with (state_dir / "up.lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(lock.read().strip() or 0)
    except FileNotFoundError:
        pass
    return None


def _wait_until_ready(process: subprocess.Popen[bytes], state_dir: Path, log_path: Path) -> str:
    end_at = time.monotonic() + READY_DEADLINE_S
    reason = "it has not written its addresses yet"
    while time.monotonic() < end_at:
        if process.poll() is not None:
            raise CelerayError(f"celeray up ended with exit code {process.returncode}:\n{_tail(log_path)}")
        url = _api_url(state_dir, process.pid)
        if url is not None:
            reason = _not_ready(url)
            if not reason:
                return url
        time.sleep(POLL_S)
    raise CelerayError(
        f"celeray up (pid {process.pid}) is not ready after {READY_DEADLINE_S:.0f} s: {reason}; it goes on trying. "
        f"The end of {log_path}:\n{_tail(log_path)}"
    )


def _api_url(state_dir: Path, pid: int) -> str | None:
    try:
        where = json.loads((state_dir / "up.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return str(where["api_url"]) if where.get("pid") == pid else None


def _not_ready(url: str) -> str:
    """Why it is not ready; empty when it is."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - our own address on loopback
            return ""
    except urllib.error.HTTPError as error:
        try:
            return str(json.loads(error.read())["detail"])
        except (ValueError, KeyError):
            return str(error)
    except OSError as error:
        return f"the API does not answer: {error}"


def _tail(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
