"""`celeray dead-letters`, and `celeray get dead-letters`, over a real Redis."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.embedded_redis import free_port

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELERAY_STATE_DIR", str(tmp_path / "state"))
    for name in ("CELERY_BROKER_URL", "REDIS_URL", "CELERAY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def park(client: redis.Redis) -> Callable[..., None]:
    def make(letter: str, *, age_s: float = 0.0, **changes: Any) -> None:
        properties = {"delivery_tag": letter, "delivery_info": {"exchange": "", "routing_key": "io.storage"}}
        document = {
            "body": "",
            "headers": {"id": f"id-{letter}", "task": "app.save"},
            "properties": properties,
        }
        record = {
            "reason": "poison",
            "detail": "\x1b[31mred",
            "list": "io.storage",
            "at": time.time() - age_s,
            "begun": 3,
            "message": json.dumps(document),
        }
        client.hset("celeray:parked", letter, msgpack.packb({**record, **changes}, use_bin_type=False))

    return make


def run(*args: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=answer)


def test_list_and_show(redis_url: str, park: Any) -> None:
    way = ("--redis-url", redis_url)
    assert run("dead-letters", "list", *way).output == "no dead letters\n"
    park("a", age_s=7200)
    park("b", message="{", reason="unreadable")
    for command in (("dead-letters", "list"), ("get", "dead-letters")):
        shown = run(*command, *way)
        assert shown.exit_code == 0, shown.output
        rows = shown.output.splitlines()
        assert [row.split()[0] for row in rows] == ["ID", "b", "a", "2"]
        assert "\x1b" not in shown.output
        assert "app.save" in rows[2]
        assert rows[3] == "2 in all: 1 poison, 1 unreadable"
        page = json.loads(run(*command, "-o", "json", *way).output)
        assert [item["id"] for item in page["letters"]] == ["b", "a"]
    old = run("dead-letters", "list", "--until", "1h", "--reason", "poison", "--task", "app.*", *way)
    assert [row.split()[0] for row in old.output.splitlines()] == ["ID", "a", "1"]
    assert (
        run("get", "dead-letters", "--since", "2001-01-01T08:00", *way)
        .output.splitlines()[-1]
        .startswith("2 in")
    )
    paged = run("dead-letters", "list", "--limit", "1", *way).output.splitlines()[-1]
    assert (
        run("dead-letters", "list", "--cursor", paged.split()[-1], *way)
        .output.splitlines()[1]
        .startswith("a ")
    )
    detail = run("dead-letters", "show", "a", *way)
    assert (detail.exit_code, "redrive    possible" in detail.output) == (0, True)
    assert "redrive    not possible: no JSON" in run("dead-letters", "show", "b", *way).output
    assert json.loads(run("dead-letters", "show", "a", "-o", "json", *way).output)["task_id"] == "id-a"
    assert run("dead-letters", "show", "x", *way).exit_code == 1
    assert run("status", *way).output.count("2 dead letters") == 1


def test_redrive_by_filter_asks(redis_url: str, park: Any, client: redis.Redis) -> None:
    way = ("--redis-url", redis_url)
    park("a")
    park("b")
    park("c", message="{")
    redrive = ("dead-letters", "redrive", "--reason", "poison", *way)
    no = run(*redrive, answer="n\n")
    assert (no.exit_code, client.llen("io.storage")) == (1, 0)
    assert "send again 2 dead letters by filter: reason=poison (1 can't be)?" in no.output
    dry = run(*redrive, "--dry-run", "-o", "json")
    assert (json.loads(dry.stdout)["sent"], client.llen("io.storage")) == (2, 0)
    yes = run(*redrive, answer="y\n")
    assert "2 of 3 sent again" in yes.output
    assert "c: unreadable: no JSON" in yes.output
    assert (yes.exit_code, client.llen("io.storage")) == (1, 2)
    park("d")
    quiet = run("dead-letters", "redrive", "--all", "--yes", "-o", "json", *way)
    assert (json.loads(quiet.stdout)["sent"], client.llen("io.storage")) == (1, 3)


def test_redrive_by_id_with_edits(redis_url: str, park: Any, client: redis.Redis) -> None:
    park("a")
    edits = (
        "--to-queue",
        "cpu.analysis",
        "--priority",
        "10",
        "--rate",
        "1000",
        "--by",
        "ops",
        "--why",
        "fixed",
    )
    done = run("dead-letters", "redrive", "a", *edits, "--redis-url", redis_url)
    assert (done.exit_code, done.output) == (0, "1 of 1 sent again\n")
    assert client.llen("cpu.analysis") == 1
    again = run("dead-letters", "redrive", "a", "--redis-url", redis_url)
    assert (again.exit_code, "not among the dead letters" in again.output) == (1, True)
    trail = run("get", "audit", "--redis-url", redis_url).output
    assert "1 dead letters by id: a" in trail
    assert "fixed" in trail


def test_redrive_with_another_request(redis_url: str, park: Any, client: redis.Redis) -> None:
    way = ("--redis-url", redis_url)
    park("a")
    redrive = ("dead-letters", "redrive", "--all", *way)
    dry = run(*redrive, "--dry-run", "--request", "vram_gb=16", "--request", "gpu_type=A100")
    assert dry.output == '1 of 1 would be sent again\na: gpu_type unset -> "A100", vram_gb unset -> 16\n'
    assert client.llen("io.storage") == 0
    for words in ("vram_gb", "=16", "vram_gb=-2"):
        wrong = run(*redrive, "--yes", "--request", words)
        assert (wrong.exit_code, "vram_gb" in wrong.output or "KEY=VALUE" in wrong.output) == (2, True)
    twice = run(*redrive, "--yes", "--request", "cpus=1", "--request", "cpus=2")
    assert (twice.exit_code, "each key once" in twice.output) == (2, True)
    done = run(*redrive, "--yes", "--request", "vram_gb=16", "-o", "json")
    assert json.loads(done.stdout)["edits"] == [{"id": "a", "before": {}, "after": {"vram_gb": 16}}]
    sent: Any = client.lrange("io.storage", 0, -1)
    assert json.loads(sent[0])["headers"]["resource_requirements"] == {"vram_gb": 16}


def test_discard(redis_url: str, park: Any, client: redis.Redis) -> None:
    way = ("--redis-url", redis_url)
    park("a")
    park("b", age_s=7200)
    assert run("dead-letters", "discard", "a", *way).exit_code == 2
    assert (
        "discard 1 dead letters"
        in run("dead-letters", "discard", "--until", "1h", "--why", "old", *way).output
    )
    done = run("dead-letters", "discard", "--until", "1h", "--why", "old", "--yes", *way)
    assert (done.exit_code, done.output) == (0, "1 of 1 discarded\n")
    assert run("dead-letters", "discard", "a", "--why", "seen", *way).exit_code == 0
    assert client.hlen("celeray:parked") == 0


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("redrive",), 2),
        (("redrive", "a", "--all"), 2),
        (("redrive", "a", "--queue", "q"), 2),
        (("redrive", "--all", "--priority", "11"), 2),
        (("redrive", "--all", "--rate", "0"), 2),
        (("redrive", "--since", "yesterday"), 2),
        (("list", "--until", "5x"), 2),
        (("list", "--cursor", "x"), 2),
        (("discard", "--why", "x"), 2),
        (("redrive", "a", "--to-queue", "nowhere"), 1),
        (("discard", "a", "--why", "two\nlines"), 1),
    ],
)
def test_what_is_refused(redis_url: str, args: tuple[str, ...], code: int) -> None:
    assert run("dead-letters", *args, "--redis-url", redis_url).exit_code == code


def test_nobody_there() -> None:
    way = ("--redis-url", f"redis://127.0.0.1:{free_port()}/0")
    for args in (
        ("list",),
        ("show", "a"),
        ("redrive", "a"),
        ("redrive", "--all"),
        ("discard", "a", "--why", "x"),
    ):
        result = run("dead-letters", *args, *way)
        assert result.exit_code == 69, result.output


def test_by_the_api(redis_url: str, park: Any, tmp_path: Path) -> None:
    park("a#1")
    park("b", age_s=7200)
    token = tmp_path / "operator"
    token.write_text(run("token", "create", "--role", "operator").stdout)
    port = free_port()
    url = ("--url", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "celeray.cli", "api", "--redis-url", redis_url, "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            end_at = time.monotonic() + DEADLINE_S
            while (listed := run("dead-letters", "list", "--task", "app.*", *url)).exit_code == 69:
                assert process.poll() is None
                assert time.monotonic() < end_at
                time.sleep(0.1)
            assert [row.split()[0] for row in listed.output.splitlines()] == ["ID", "a=231", "b", "2"]
            assert run("get", "dead-letters", "--until", "1h", *url).output.splitlines()[1].startswith("b ")
            refused = run("dead-letters", "show", "b", *url)
            assert (refused.exit_code, "401" in refused.output) == (1, True)
            way = (*url, "--token-file", str(token))
            assert "id-a#1" in run("dead-letters", "show", "a=231", *way).output
            assert run("dead-letters", "show", "none", *way).exit_code == 1
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) in (0, -15)


def test_the_keeper_does_it(redis_url: str, park: Any, client: redis.Redis) -> None:
    park("a", age_s=100_000)
    park("b")
    done = run("keeper", "--once", "--redis-url", redis_url)
    assert "old-letters: 1 dead letters forgotten, older than 86400 s" in done.output
    assert client.hkeys("celeray:parked") == [b"b"]


def test_the_front_door(redis_url: str, client: redis.Redis) -> None:
    way = ("--redis-url", redis_url)
    shape = {"task": {"name": "app.save_to_storage", "id": "t1"}, "error": "OSError: full", "retry_count": 2}
    client.lpush("dlq", json.dumps(shape), "rubbish")
    once = run("keeper", "--once", *way)
    assert "front-door: 2 messages taken in, 1 of which can't be sent" in once.output
    listed = json.loads(run("dead-letters", "list", "--reason", "reported", "-o", "json", *way).stdout)
    found = {letter["task_id"]: letter for letter in listed["letters"]}
    assert (found["t1"]["detail"], found["t1"]["attempts"]) == ("OSError: full", 2)
    shown = json.loads(run("dead-letters", "show", found["t1"]["id"], "-o", "json", *way).stdout)
    assert json.loads(base64.b64decode(shown["original_base64"])) == shape
    assert found[None]["detail"].startswith("[can't be sent: no JSON")
    sent = run("dead-letters", "redrive", "--reason", "reported", "--yes", *way)
    assert "1 of 2 sent again" in sent.output
    assert client.llen("io.storage\x06\x165") == 1
