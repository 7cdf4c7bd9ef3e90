"""`celeray drain`, `undrain`, and what `get` and `status` then show; over a real Redis."""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, device, node

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELERAY_STATE_DIR", str(tmp_path / "state"))
    for name in ("CELERY_BROKER_URL", "REDIS_URL", "CELERAY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def way(redis_url: str) -> Iterator[tuple[str, str]]:
    """A Redis in which a bridge shows a node with a device that an XID keeps out."""
    shown = device(marked_at=1.5, leaking_mib=2048)
    with redis.Redis.from_url(redis_url) as client:
        status = bridge(written_at=time.time(), devices=(shown,), nodes=(node(),), queues=())
        StatusStore(client, interval_s=10.0).publish(status, [])
        yield "--redis-url", redis_url


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_drain_undrain_and_what_is_shown(way: tuple[str, str]) -> None:
    me = f"{getpass.getuser()}@{socket.gethostname()}"
    drained = run("drain", "device", "GPU-a", "--why", "fan", *way)
    assert drained.exit_code == 0, drained.output
    assert drained.output.startswith(f"device GPU-a is drained by {me} since ")
    assert drained.output.endswith(": fan\n")
    again = run("drain", "device", "GPU-a", "--why", "fan", "--by", "other", *way)
    assert f"device GPU-a was drained already, by {me}" in again.output
    row = run("get", "devices", "GPU-a", *way).output.splitlines()[1]
    assert f"drained by {me}" in row
    assert "leaking 2.0 GiB" in row
    assert run("drain", "node", "node-1", *way).exit_code == 0
    assert " drained" in run("get", "nodes", "node-1", *way).output.splitlines()[1]
    status = run("status", *way).output
    assert f"drained   device GPU-a by {me}" in status
    assert f"drained   node node-1 by {me}" in status
    back = run("undrain", "device", "GPU-a", *way).output
    assert back == "device GPU-a is undrained\nthe XIDs of device GPU-a are forgiven\n"
    assert run("undrain", "device", "GPU-a", *way).output == "device GPU-a was not drained\n"
    assert run("undrain", "node", "node-1", *way).output == "node node-1 is undrained\n"
    assert "drained   " not in run("status", *way).output
    trail = run("get", "audit", *way).output.splitlines()
    assert [line.split()[3] for line in trail[1:]] == ["undrain", "undrain", "drain", "drain"]


def test_json_is_what_rest_answers(way: tuple[str, str]) -> None:
    drained = json.loads(run("drain", "node", "node-1", "--by", "ops", "-o", "json", *way).output)
    assert drained.pop("drained").keys() == {"by", "at", "why"}
    assert drained == {"kind": "node", "name": "node-1", "forgiven": [], "changed": True}
    listed = json.loads(run("get", "nodes", "-o", "json", *way).output)
    assert listed["nodes"][0]["drained"]["by"] == "ops"
    back = json.loads(run("undrain", "node", "node-1", "-o", "json", *way).output)
    assert back == {
        "kind": "node",
        "name": "node-1",
        "drained": None,
        "forgiven": ["GPU-a"],
        "changed": True,
    }


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("device",), 2, "NAME"),
        (("queue", "x"), 2, "queue"),
        (("device", "GPU-z"), 1, "there are GPU-a"),
        (("node", "node-9"), 1, "there are node-1"),
        (("device", "GPU-a", "--why", "a\nb"), 1, "why="),
    ],
)
def test_what_is_refused(
    way: tuple[str, str], verb: str, args: tuple[str, ...], code: int, named: str
) -> None:
    result = run(verb, *args, *way)
    assert result.exit_code == code, result.output
    assert named in result.output


def test_nobody_there() -> None:
    way = ("--redis-url", f"redis://127.0.0.1:{free_port()}/0")
    for verb in ("drain", "undrain"):
        assert run(verb, "device", "GPU-a", *way).exit_code == 69
    assert run("drain", "device", "GPU-a").exit_code == 2
