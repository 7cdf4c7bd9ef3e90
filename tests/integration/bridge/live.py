"""A real bridge as a process of its own, on a local Ray with simulated devices."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from tests.integration.memory_cgroup import MemoryCgroup

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60.0


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until `condition()` is true and return what it returned."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)
    return found


def application(url: str, module: str = "tests.apps.gpu") -> Celery:
    """The tests' app as a producer, on a broker of its own."""
    app: Celery = importlib.import_module(module).app
    app.conf.update(broker_url=url, broker_read_url=url, broker_write_url=url, result_backend=url)
    # Connections and the backend of an earlier broker are kept by the app otherwise. They are not closed here:
    # a pool that kombu keeps by its URL must still serve when the app comes back to it.
    app._pool = None
    app._backend_cache = None
    app._local.__dict__.pop("backend", None)
    app.amqp._producer_pool = None
    # It keeps a client of the broker that it was made with.
    app.__dict__.pop("control", None)
    return app


class LiveBridge:
    """`celeray bridge`, started and stopped by pid."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *args: str,
        module: str = "tests.apps.gpu",
        gpus: str | None = "2x24GiB",
        name: str = "gpu",
        env: dict[str, str] | None = None,
        cgroup: MemoryCgroup | None = None,
    ) -> None:
        self.url = url
        self.log = folder / f"{name}.log"
        self.node = f"{name}@test"
        self._module = module
        command = [sys.executable, "-m", "celeray.cli", "bridge", "-A", module, "-n", self.node]
        command += ["--simulate-gpus", gpus] if gpus else []
        # Without mingle and gossip it is ready a second sooner; what they do is Celery's own.
        command += [*args, "--", "--without-mingle", "--without-gossip"]
        self._command = command if cgroup is None else cgroup.entered(command)
        self._env = {
            **os.environ,
            "CELERY_BROKER_URL": url,
            "CELERY_RESULT_BACKEND": url,
            "CELERAY_NEVER_FITS_AFTER_S": "2",
            **(env or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> LiveBridge:
        """Start it and wait until it answers a ping."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=output, stderr=subprocess.STDOUT
            )
        until(self._answers, f"the bridge is up; see {self.log}:\n{self.tail()}")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the bridge ended with {self._process.returncode}:\n{self.tail()}")
        app = application(self.url, self._module)
        return bool(app.control.ping([self.node], timeout=0.5))

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def signal(self, signum: int) -> None:
        """Send a signal to the bridge itself."""
        assert self._process is not None
        self._process.send_signal(signum)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end and return the exit code."""
        assert self._process is not None
        return self._process.wait(deadline_s)

    def stop(self) -> None:
        """Warm shutdown; killed where that hangs."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()
            raise AssertionError(f"the bridge did not end:\n{self.tail()}") from None
