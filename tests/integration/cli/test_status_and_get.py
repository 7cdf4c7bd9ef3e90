"""`status` and `get` over REST (a real server) and over Redis: the same models, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.status import TaskState
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, record

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


@pytest.fixture
def store(redis_url: str) -> Iterator[StatusStore]:
    with redis.Redis.from_url(redis_url) as client:
        yield StatusStore(client, interval_s=10.0)  # documents that outlive a slow machine


@pytest.fixture
def api_url(redis_url: str, tmp_path: Path) -> Iterator[str]:
    """`celeray api` as a process."""
    port = free_port()
    command = [sys.executable, "-m", "celeray.cli", "api", "--redis-url", redis_url, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=tmp_path) as process:
        end_at = time.monotonic() + DEADLINE_S
        while run("status", "--url", url).exit_code == 69:
            assert process.poll() is None
            assert time.monotonic() < end_at
            time.sleep(0.1)
        yield url
        process.terminate()
        assert process.wait(DEADLINE_S) in (0, -15)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def write(store: StatusStore, **changes: object) -> None:
    now = time.time()
    past = {"received_at": now - 10, "started_at": now - 8}
    ended = record(**past, ended_at=now - 1)
    running = record("t2", **past, ended_at=None, run_s=None, state=TaskState.RUNNING)
    waiting = record(
        "t3",
        received_at=now - 10,
        started_at=None,
        vram_mib=None,
        gpus=2,
        warm=None,
        ended_at=None,
        state=TaskState.WAITING,
    )
    records = [ended.stored(), running.stored(), waiting.stored()]
    store.publish(bridge(**{"queues": (), "written_at": now} | changes), records)


def test_good_over_redis(store: StatusStore, redis_url: str) -> None:
    write(store)
    result = run("status", "--redis-url", redis_url)
    assert result.exit_code == 0, result.output
    assert "celeray 0.1.0: ok" in result.output
    assert "67.0 of 80.0 GiB schedulable" in result.output
    assert "gpu-b1@host (pid 4242)" in result.output


def test_degraded(store: StatusStore, redis_url: str) -> None:
    write(store, cluster_up=False)
    store.publish(bridge("b2", written_at=time.time()), [])
    store._client.delete(store.keys.bridge("b2"))
    result = run("status", "--redis-url", redis_url)
    assert result.exit_code == 1
    assert "does not reach Ray" in result.output
    assert "gpu-b2@host down" in result.output


def test_the_same_over_rest_and_over_redis(store: StatusStore, redis_url: str, api_url: str) -> None:
    write(store)
    time.sleep(0.3)  # the API's picture of the moment before
    for command in (["queues"], ["devices"], ["nodes"], ["tasks"], ["tasks", "-l", "state=running"]):
        ways = (["--redis-url", redis_url], ["--url", api_url])
        rest, direct = (json.loads(run("get", *command, "-o", "json", *way).output) for way in ways)
        for found in (rest, direct):
            for node in found.get("nodes", ()):
                assert node.pop("reading_age_s") > 0
        assert rest == direct
    assert run("status", "--url", api_url).exit_code == 0
    unreadable = run("get", "queues", "x", "--url", f"{api_url}/docs")
    assert unreadable.exit_code == 1
    assert "404" in unreadable.output


def test_tables(store: StatusStore, redis_url: str) -> None:
    write(store)
    store._client.rpush("gpu.generation", "m")
    way = ("--redis-url", redis_url)
    queues = run("get", "queues", *way).output.splitlines()
    assert queues[1].split()[:4] == ["gpu.generation", "gpu", "1", "10:1"]
    device = run("get", "devices", *way).output.splitlines()[1].split()
    assert device[:2] == ["node-1", "0"]
    assert "37%" in device
    assert "GPU-a" in run("get", "devices", "GPU-a", *way).output
    assert "7 of 8" in run("get", "nodes", *way).output
    tasks = {line.split()[0]: line for line in run("get", "tasks", *way).output.splitlines()}
    assert "12.0" in tasks["t1"]
    assert "2xwhole" in tasks["t3"]
    assert "running" in tasks["t2"]
    assert run("get", "tasks", "-l", "queue=io.storage", *way).output == "no tasks\n"


def test_what_does_not_exist(store: StatusStore, redis_url: str) -> None:
    write(store)
    for kind in ("queues", "devices", "nodes"):
        result = run("get", kind, "nothing", "--redis-url", redis_url)
        assert result.exit_code == 1
        assert "nothing" in result.output


def test_nobody_there() -> None:
    port = free_port()
    rest = run("status", "--url", f"http://127.0.0.1:{port}")
    assert rest.exit_code == 69
    assert "does not answer" in rest.output
    assert run("status", "--redis-url", f"redis://127.0.0.1:{port}/0").exit_code == 69
    assert run("status", "--url", "ftp://x").exit_code == 2
    assert run("status", "--redis-url", "amqp://x").exit_code == 2


def test_by_the_app_and_as_a_plugin_of_celery(store: StatusStore, redis_url: str, tmp_path: Path) -> None:
    write(store)
    (tmp_path / "film.py").write_text(
        f"from celery import Celery\napp = Celery('film', broker={redis_url!r})\n"
    )
    for command in (
        ["celeray.cli", "status", "-A", "film", "-o", "json"],
        ["celery", "-A", "film", "celeray", "status", "-o", "json"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, env=_plain_env()
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["running"] == 1
    missing = subprocess.run(
        [sys.executable, "-m", "celeray.cli", "status", "-A", "nofilm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=_plain_env(),
    )
    assert missing.returncode == 2
    assert "nofilm" in missing.stderr


def _plain_env() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "CELERAY_"))}


def test_doctor_over_a_real_redis(redis_url: str, store: StatusStore, tmp_path: Path) -> None:
    write(store)
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(0o600)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": ""}
    good = CliRunner(env=env).invoke(main, ["doctor", "--redis-url", redis_url])
    assert good.exit_code == 0, good.output
    few = CliRunner(env=env).invoke(main, ["doctor", "--redis-url", redis_url, "--expect-nodes", "3"])
    assert few.exit_code == 1
    assert "expected 3, have 1" in few.output
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            lossy = CliRunner(env=env).invoke(main, ["doctor", "--redis-url", redis_url])
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert lossy.exit_code == 1
    assert "set noeviction" in lossy.output
