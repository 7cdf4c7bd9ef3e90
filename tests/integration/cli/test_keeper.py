"""`celeray keeper` as a process: what it does, what the status says of it, and its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.keys import Keys
from tests.integration.scheduler.transport.conftest import Broker, Side
from tests.integration.scheduler.transport.test_settling import expire

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


def eventually(condition: Callable[[], Any]) -> Any:
    end_at = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end_at
        time.sleep(0.05)
    return found


@pytest.fixture
def keeper(redis_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celeray.cli", "keeper", "--redis-url", redis_url]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        yield process
        if process.poll() is None:
            process.kill()


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def status(redis_url: str) -> Any:
    return json.loads(run("status", "--redis-url", redis_url, "-o", "json").output)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_its_life(redis_url: str, keeper: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    [shown] = eventually(lambda: status(redis_url)["keepers"])
    assert shown["up"]
    assert f":{keeper.pid}:" in shown["name"]
    assert not any("keeper" in problem for problem in status(redis_url)["problems"])
    assert "keeper    " in run("status", "--redis-url", redis_url).output
    keeper.send_signal(stop)
    assert keeper.wait(DEADLINE_S) == 0
    assert status(redis_url)["keepers"] == []
    assert not any("keeper" in problem for problem in status(redis_url)["problems"])


def test_without_one_that_was_there_the_status_is_degraded(
    redis_url: str, keeper: subprocess.Popen[bytes]
) -> None:
    [shown] = eventually(lambda: status(redis_url)["keepers"])
    keeper.kill()
    keeper.wait()
    with redis.Redis.from_url(redis_url) as client:
        client.zincrby(Keys().keepers(), -11, shown["name"])
    found = status(redis_url)
    assert not found["keepers"][0]["up"]
    assert any(problem.startswith(f"no keeper is up: {shown['name']}") for problem in found["problems"])
    assert "down, last round" in run("status", "--redis-url", redis_url).output


@pytest.mark.usefixtures("no_lease_threads")
def test_once(redis_url: str) -> None:
    side, broker = Side(redis_url), Broker(redis_url)
    side.publish("x", n=0)
    assert side.get()
    expire(broker)
    result = run("keeper", "--redis-url", redis_url, "--once")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:2] == ["expired-leases: 1 messages put back", "due-etas: nothing to do"]
    assert {"old-revokes: nothing to do", "gone-writers: nothing to do"} <= set(lines)
    assert broker.headers() == [0]
    side.connection.close()
    broker.client.close()


def test_the_apps_own_options_count(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kept_app.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('kept', broker={redis_url!r})\n"
        "app.conf.broker_transport_options = {'global_keyprefix': 'film:', 'visibility_timeout': 50}\n"
    )
    monkeypatch.chdir(tmp_path)
    side, broker = Side(redis_url, leased=False, global_keyprefix="film:"), Broker(redis_url, "film:")
    broker.trust_server()
    side.publish("x", n=0)
    side.consume()
    side.drain()
    [(tag, at)] = broker.client.zrange("film:unacked_index", 0, -1, withscores=True)
    broker.client.zadd("film:unacked_index", {tag: at - 40})
    assert "expired-leases: nothing to do" in run("keeper", "-A", "kept_app", "--once").output
    broker.client.zadd("film:unacked_index", {tag: at - 60})
    assert "expired-leases: 1 messages put back" in run("keeper", "-A", "kept_app", "--once").output
    side.got.clear()
    side.connection.close()
    broker.client.close()


def test_usage_and_an_unreachable_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    assert run("keeper", "--once").exit_code == 2
    result = run("keeper", "--redis-url", f"redis://127.0.0.1:{free_port()}/0", "--once")
    assert result.exit_code == 69
