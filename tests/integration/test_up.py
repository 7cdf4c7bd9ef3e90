"""`celeray up --head`: the whole stack of one machine, simulated devices and all, through a crash of its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),
    pytest.mark.unmeasured,
]
DEADLINE_S = 240.0
"""Generous: an executor loads the app under coverage, on a machine that other tests share."""
APP = """
import os
import celeray
from celery import Celery

app = Celery("probe", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND"))
celeray.install(app)


@app.task(name="probe.on_gpu", resource_requirements={"gpu": True, "vram_gb": 4})
def on_gpu(x):
    return x + 1, os.environ["CUDA_VISIBLE_DEVICES"]


@app.task(name="probe.on_cpu")
def on_cpu(x):
    return x + 1, os.environ.get("OMP_NUM_THREADS")
"""
CONFIG = """
[workers.cpu]
queues = ["cpu.analysis", "priority"]
pool = "solo"
concurrency = 1
"""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    end_at = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end_at, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.2)
    return found


def family(pids: list[int]) -> list[psutil.Process]:
    """The processes and everything that they started."""
    parents = [psutil.Process(pid) for pid in pids]
    return parents + [child for parent in parents for child in parent.children(recursive=True)]


@dataclass
class Up:
    """A running stack, and how to talk to it."""

    folder: Path
    environment: dict[str, str]

    @property
    def where(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state" / "up.json").read_text())
        return found

    @property
    def log(self) -> str:
        return (self.folder / "state" / "up.log").read_text()

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celeray.cli", *args],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def head(self) -> subprocess.CompletedProcess[str]:
        options = (
            "--simulate-gpus",
            "1x8GiB",
            "--api-port",
            "0",
            "--flower-port",
            "0",
            "--state-dir",
            "state",
        )
        return self.command("up", "--head", "-A", "probe", *options)

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.where["api_url"] + path, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, task: str, queue: str, *args: Any) -> tuple[str, Any]:
        """Send a task as a stock producer does, and return its id and result."""
        url = self.where["redis_url"]
        app = Celery("producer", broker=url, backend=url, set_as_current=False)
        app.conf.update(accept_content=["json", "msgpack"], result_accept_content=["json", "msgpack"])
        with app.connection_for_write() as connection:
            result = app.send_task(task, args=args, queue=queue, connection=connection)
        try:
            return result.id, result.get(timeout=DEADLINE_S)
        except CeleryTimeoutError:
            seen = {path: self.get(path) for path in (f"/v1/tasks/{result.id}", "/v1/status", "/v1/queues")}
            pytest.fail(f"{task} did not end within {DEADLINE_S:.0f} s: {seen}\n{self.log[-5000:]}")
        finally:
            app.close()
            result.backend.client.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "probe.py").write_text(APP)
    (folder / "celeray.toml").write_text(CONFIG)
    # As `ray up` runs a start command.
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "CELERAY_"))
    }
    for name in ("RAY_ADDRESS", "REDIS_URL", "NO_COLOR"):
        environment.pop(name, None)
    made = Up(folder, environment | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    started = made.head()
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        yield made
    finally:
        stop(made)


def stop(made: Up) -> None:
    """Stop the stack if it runs still; nothing of it may be left."""
    if not (made.folder / "state" / "up.json").exists():
        return
    processes = family([made.where["pid"]])
    os.kill(made.where["pid"], signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=DEADLINE_S)
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}\n{made.log[-3000:]}"


def test_a_task_of_each_kind_runs_and_is_shown(up: Up) -> None:
    wait_for(lambda: up.get("/v1/status")["devices"], "the device is there")
    assert up.get("/v1/status")["vram_total_mib"] == 8192
    gpu_id, (value, devices) = up.run("probe.on_gpu", "gpu.processing", 41)
    assert value == 42
    cpu_id, (value, threads) = up.run("probe.on_cpu", "cpu.analysis", 1)
    assert (value, threads) == (2, None)

    def ended() -> Any:
        found = up.get(f"/v1/tasks/{gpu_id}")
        return found if (found.get("run") or {}).get("state") == "succeeded" else None

    run = wait_for(ended, "the record of the GPU task")["run"]
    assert run["device_uuids"] == [devices]
    assert (run["vram_mib"], run["gpus"], run["queue"]) == (4096, 1, "gpu.processing")
    found = up.get(f"/v1/tasks/{cpu_id}")
    assert (found["state"], found["run"]) == ("succeeded", None)
    status = up.command("status", "--url", up.where["api_url"])
    assert status.returncode == 0, status.stdout
    with urllib.request.urlopen(up.where["api_url"] + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'name="probe.on_gpu",outcome="succeeded",queue_name="gpu.processing"} 1.0' in text


def test_a_second_call_does_nothing_and_says_so(up: Up) -> None:
    before = up.where
    again = up.head()
    assert again.returncode == 0
    assert f"(pid {before['pid']}): nothing to do" in again.stdout
    assert up.where == before
    clash = up.command("up", "-A", "probe", "--api-port", "0", "--flower-port", "0", "--state-dir", "state")
    assert clash.returncode == 2
    assert f"pid {before['pid']} runs there" in clash.stderr


def test_a_worker_that_dies_is_started_again(up: Up) -> None:
    first = up.where["parts"]["cpu"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: up.where["parts"]["cpu"] != first, "the worker is started again")
    assert "cpu      | ended (signal SIGKILL); starting again" in up.log
    assert up.run("probe.on_cpu", "cpu.analysis", 5)[1][0] == 6


def test_redis_comes_back_with_its_data_on_its_port(up: Up) -> None:
    url = up.where["redis_url"]
    port = int(url.rpartition(":")[2].partition("/")[0])
    server = next(
        process
        for process in psutil.Process(up.where["pid"]).children()
        if "redis-server" in process.name() or f"--port {port}" in " ".join(process.cmdline())
    )
    task_id, _ = up.run("probe.on_cpu", "cpu.analysis", 7)
    server.kill()
    wait_for(lambda: up.log.count(f"redis    | on {url}") == 2, "Redis is started again")
    wait_for(lambda: up.get(f"/v1/tasks/{task_id}").get("state") == "succeeded", "what it held is there")
    wait_for(lambda: up.get("/v1/status").get("state") == "ok", "the bridge writes again")
    assert up.run("probe.on_gpu", "gpu.processing", 1)[1][0] == 2


def test_the_end_leaves_nothing(up: Up) -> None:
    pid, parts = up.where["pid"], up.where["parts"]
    stop(up)
    assert "up       | stopped" in up.log
    for one in (pid, *parts.values()):
        assert not psutil.pid_exists(one)
    assert not (up.folder / "state" / "up.json").exists()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("up",), "-A proj.app"),
        (("up", "-A", "nothing_here"), "nothing_here"),
        (("up", "-A", "probe", "--head", "--simulate-gpus", "x", "--state-dir", "other"), "exit code 2"),
    ],
)
def test_what_can_not_start_says_why(tmp_path: Path, args: tuple[str, ...], text: str) -> None:
    (tmp_path / "probe.py").write_text(APP)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "CELERAY_"))
    }
    done = Up(tmp_path, environment).command(*args)
    assert done.returncode in (1, 2)
    assert text in done.stderr
