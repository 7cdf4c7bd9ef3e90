"""`celeray pause`, `resume`, and what `get` and `status` then show; over a real Redis and a real API."""

from __future__ import annotations

import getpass
import json
import socket
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
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def leased(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELERAY_TRANSPORT", "leased")
    monkeypatch.setenv("CELERAY_STATE_DIR", str(tmp_path / "state"))
    for name in ("CELERY_BROKER_URL", "REDIS_URL", "CELERAY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_pause_resume_and_what_is_shown(redis_url: str, client: redis.Redis) -> None:
    StatusStore(client, interval_s=10.0).publish(bridge(written_at=time.time(), queues=()), [])
    way = ("--redis-url", redis_url)
    me = f"{getpass.getuser()}@{socket.gethostname()}"
    paused = run("pause", "gpu.generation", "--why", "driver update", *way)
    assert paused.exit_code == 0, paused.output
    assert paused.output.startswith(f"gpu.generation is paused by {me} since ")
    assert paused.output.endswith(": driver update\n")
    again = run("pause", "gpu.generation", "--why", "driver update", "--by", "other", *way)
    assert again.exit_code == 0
    assert f"was paused already, by {me}" in again.output
    row = run("get", "queues", "gpu.generation", *way).output.splitlines()[1]
    assert f"by {me} since" in row
    assert row.endswith("driver update")
    others = run("get", "queues", "cpu.analysis", *way).output.splitlines()[1]
    assert others.endswith("-")
    status = run("status", *way)
    assert status.exit_code == 0, "a pause is no problem"
    assert f"paused    gpu.generation by {me}" in status.output
    assert run("resume", "gpu.generation", *way).output == "gpu.generation is resumed\n"
    assert run("resume", "gpu.generation", *way).output == "gpu.generation was not paused\n"
    assert "paused " not in run("status", *way).output
    trail = run("get", "audit", *way).output.splitlines()
    assert [line.split()[3] for line in trail[1:]] == ["resume", "pause"]


def test_json_is_what_rest_answers(redis_url: str) -> None:
    way = ("--redis-url", redis_url, "-o", "json")
    paused = json.loads(run("pause", "io.storage", "--why", "x", "--by", "ops", *way).output)
    assert paused.pop("paused").keys() == {"by", "at", "why"}
    assert paused == {"queue": "io.storage", "changed": True}
    listed = json.loads(run("get", "queues", "io.storage", *way).output)
    assert listed["queues"][0]["paused"]["by"] == "ops"
    resumed = json.loads(run("resume", "io.storage", "--why", "done", *way).output)
    assert resumed == {"queue": "io.storage", "paused": None, "changed": True}
    records = json.loads(run("get", "audit", *way).output)["records"]
    assert [item["why"] for item in records] == ["done", "x"]


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("pause", "gpu.generation"), 2, "--why"),
        (("pause", "--why", "x"), 2, "QUEUE"),
        (("pause", "gpu.nothing", "--why", "x"), 1, "gpu.generation"),
        (("resume", "gpu.nothing"), 1, "gpu.generation"),
        (("pause", "gpu.generation", "--why", "a\nb"), 1, "why="),
        (("pause", "gpu.generation", "--why", "x", "--by", "b" * 201), 1, "by="),
    ],
)
def test_what_is_refused(redis_url: str, args: tuple[str, ...], code: int, named: str) -> None:
    result = run(*args, "--redis-url", redis_url)
    assert result.exit_code == code
    assert named in result.output


def test_nobody_would_honour_it(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELERAY_TRANSPORT", "kombu")
    stock = run("pause", "gpu.generation", "--why", "x", "--redis-url", redis_url)
    assert (stock.exit_code, "transport='kombu'" in stock.output) == (2, True)
    monkeypatch.setenv("CELERAY_TRANSPORT", "leased")
    (tmp_path / "rabbit_film.py").write_text(
        f"from celery import Celery\napp = Celery('film', broker='amqp://nowhere', backend={redis_url!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    amqp = run("pause", "gpu.generation", "--why", "x", "-A", "rabbit_film")
    assert (amqp.exit_code, "Redis only" in amqp.output) == (2, True)


def test_nobody_there() -> None:
    way = ("--redis-url", f"redis://127.0.0.1:{free_port()}/0")
    for command in (
        ("pause", "gpu.generation", "--why", "x"),
        ("resume", "gpu.generation"),
        ("get", "audit"),
    ):
        result = run(*command, *way)
        assert result.exit_code == 69, result.output
    assert run("resume", "gpu.generation").exit_code == 2


def test_an_api_that_asks_for_a_token(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    """Refuses to start without one; then `status` and `get` read it by --token-file."""
    StatusStore(client, interval_s=60.0).publish(bridge(written_at=time.time(), queues=()), [])
    monkeypatch.setenv("CELERAY_API_READ_REQUIRES_TOKEN", "true")
    port = free_port()
    refused = run("api", "--redis-url", redis_url, "--port", str(port))
    assert (refused.exit_code, "celeray token create" in refused.output) == (2, True)
    files = {}
    for role in ("viewer", "admin"):
        files[role] = tmp_path / role
        files[role].write_text(CliRunner().invoke(main, ["token", "create", "--role", role]).stdout)
    command = [sys.executable, "-m", "celeray.cli", "api", "--redis-url", redis_url, "--port", str(port)]
    url = ("--url", f"http://127.0.0.1:{port}")
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            end_at = time.monotonic() + DEADLINE_S
            while run("status", *url).exit_code == 69:
                assert process.poll() is None
                assert time.monotonic() < end_at
                time.sleep(0.1)
            without = run("status", *url)
            assert (without.exit_code, "401" in without.output) == (1, True)
            assert run("status", *url, "--token-file", str(files["viewer"])).exit_code == 0
            monkeypatch.setenv("CELERAY_TOKEN_FILE", str(files["viewer"]))
            assert run("get", "queues", *url).exit_code == 0
            assert "admin" in run("get", "audit", *url).output
            assert run("get", "audit", *url, "--token-file", str(files["admin"])).output == "no records\n"
            (tmp_path / "empty").write_text("\n")
            assert run("status", *url, "--token-file", str(tmp_path / "empty")).exit_code == 2
            assert run("status", *url, "--token-file", str(tmp_path / "none")).exit_code == 2
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) in (0, -15)
