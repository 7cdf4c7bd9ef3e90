"""Ray is killed and comes back: messages of the GPU queues wait for it, and nobody else notices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.status_store import StatusStore

from .live import ROOT, LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.unmeasured, pytest.mark.timeout(300)]


class RayHead:
    """A Ray head on a port of its own, that can be killed with all of its processes."""

    def __init__(self) -> None:
        self.port = free_port()
        # Ray's sockets are in it, and their paths must be short.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--head", "--block", f"--port={self.port}", "--node-ip-address=127.0.0.1"]
        command += ["--num-cpus=2", "--num-gpus=1", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        with open(f"{self._folder}/start.log", "ab") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "CELERAY_SIMULATE_GPUS": "1x24GiB"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """End every process of the head at once, as a power cut would."""
        if self._process is None:
            return
        head = psutil.Process(self._process.pid)
        family = [*head.children(recursive=True), head]
        for process in family:
            with_suppressed_kill(process)
        psutil.wait_procs(family, timeout=20)
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def with_suppressed_kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def head(ray_environment: Path) -> Iterator[RayHead]:
    head = RayHead()
    head.start()
    yield head
    head.remove()


@pytest.fixture
def cpu_worker(broker: str, tmp_path: Path) -> Iterator[None]:
    """A plain Celery worker on a CPU queue and on the priority queue."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.apps.gpu",
        "worker",
        "-n",
        "cpu@test",
        "-P",
        "solo",
    ]
    command += ["-Q", "cpu.analysis,priority", "--without-mingle", "--without-gossip", "-l", "INFO"]
    environment = {**os.environ, "CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker}
    with (tmp_path / "cpu.log").open("ab") as output:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    yield
    worker.terminate()
    worker.wait(30)


def reasons(url: str) -> dict[str, int]:
    with redis.Redis.from_url(url) as client:
        bridges = StatusStore(client).read_bridges()
    return {
        str(reason): n for bridge in bridges for queue in bridge.queues for reason, n in queue.reasons.items()
    }


@pytest.mark.usefixtures("cpu_worker")
def test_gpu_work_waits_for_ray_and_the_rest_goes_on(head: RayHead, broker: str, tmp_path: Path) -> None:
    bridge = LiveBridge(broker, tmp_path, "--ray-address", f"127.0.0.1:{head.port}", gpus=None)
    bridge.start()
    try:
        app = application(broker)
        assert app.tasks["gpu.here"].delay().get(timeout=90)["devices"]
        running = app.tasks["gpu.sleep"].delay(5.0)
        until(lambda: running.state == "STARTED", "a task runs on Ray")
        head.kill()
        waiting = [app.tasks["gpu.here"].delay() for _ in range(5)]
        urgent = app.tasks["gpu.plain"].apply_async((2,), headers={"priority_task": True})
        plain = app.tasks["gpu.plain"].delay(3)
        assert plain.get(timeout=60) == 6
        assert urgent.get(timeout=60) == 4
        until(
            lambda: reasons(broker).get("cluster_down", 0) >= 5,
            "the messages are held, and the reason is told",
        )
        assert not any(result.ready() for result in waiting)
        head.start()
        assert all(result.get(timeout=120)["devices"] for result in waiting)
        assert running.get(timeout=60)["devices"], "what ran when Ray died ran again"
    finally:
        bridge.stop()
