"""A plain worker of the app whose tasks end in every way, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis
from tests.integration.bridge.live import ROOT, application, until
from tests.integration.memory_cgroup import MemoryCgroup
from tests.integration.outcome_rows import PREFORK, Site

MODULE = "tests.apps.endings"
QUEUE = "cpu.analysis"


class LiveWorker:
    """`celery worker`, started and stopped by pid."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *args: str,
        name: str = "ends",
        cgroup: MemoryCgroup | None = None,
        **env: str,
    ) -> None:
        self.url, self.node = url, f"{name}@test"
        self._log = folder / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", MODULE, "worker", "-n", self.node, "-l", "INFO"]
        command += ["-Q", QUEUE, "--without-mingle", "--without-gossip", *args]
        self._command = command if cgroup is None else cgroup.entered(command)
        self._env = {**os.environ, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, **env}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> LiveWorker:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**self._env, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            until(self._answers, "the worker is up")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text()[-3000:]
        return bool(application(self.url, MODULE).control.ping([self.node], timeout=0.5))

    def kill(self) -> None:
        """The worker and its children, as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self._log.read_text()[-3000:]) from None


@pytest.fixture(scope="module")
def module_url(redis_server: EmbeddedRedis) -> str:
    """An empty database of the module's own."""
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
def site(module_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    worker = LiveWorker(module_url, tmp_path_factory.mktemp("ends"), "-P", "prefork", "-c", "2").start()
    with redis.Redis.from_url(module_url) as client:
        yield Site(application(module_url, MODULE), client, QUEUE, PREFORK, worker.node)
    worker.stop()
