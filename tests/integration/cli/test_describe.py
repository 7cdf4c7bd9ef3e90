"""`celeray describe` over REST (a real server) and over Redis: the same documents, and the exit codes."""

from __future__ import annotations

import json
import time

import pytest
import redis

from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.status_store import StatusStore
from tests.integration.cli.test_dead_letters import clean, client
from tests.integration.cli.test_letter_states import leave
from tests.integration.cli.test_status_and_get import api_url, run, store, write

__all__ = ["api_url", "clean", "client", "store"]

pytestmark = pytest.mark.integration


def fill(client: redis.Redis, store: StatusStore) -> None:
    """A task that ran, one that runs, one that waits, and one that has left two letters and a result."""
    write(store)
    leave(client, "parked", None)
    leave(client, "waits", 3600)
    meta = {"status": "FAILURE", "result": {"exc_type": "ValueError"}, "task_id": "id-parked", "children": []}
    client.set("celery-task-meta-id-parked", json.dumps(meta))


def test_the_same_over_rest_and_over_redis(
    client: redis.Redis, store: StatusStore, redis_url: str, api_url: str
) -> None:
    fill(client, store)
    time.sleep(0.3)  # the API's picture of the moment before
    ways = (["--redis-url", redis_url], ["--url", api_url])
    for command in (["task", "t1"], ["task", "id-parked"], ["device", "GPU-a"], ["node", "node-1"]):
        rest, direct = (
            json.loads(run("describe", *command, "-o", "json", *way).output) for way in reversed(ways)
        )
        for found in (rest, direct):
            if "node" in found:
                assert found["node"].pop("reading_age_s") > 0
        for one in direct.get("letters", ()):
            assert [attempt["number"] for attempt in one.pop("history")] == [1, 2]
        for one in rest.get("letters", ()):
            assert one.pop("history") is None, "without a token nobody is an operator"
        assert rest == direct
    for kind, name in (("task", "t9"), ("device", "GPU-9"), ("node", "node-9")):
        for way in ways:
            missing = run("describe", kind, name, *way)
            assert (missing.exit_code, name in missing.output) == (1, True), missing.output


def test_tables(client: redis.Redis, store: StatusStore, redis_url: str) -> None:
    fill(client, store)
    way = ("--redis-url", redis_url)

    ran = run("describe", "task", "t1", *way).output
    for part in ("succeeded", "gpu.generation at priority 5", "1 device(s) with 12.0 GiB", "node-1", "GPU-a"):
        assert part in ran
    assert "for its turn" in run("describe", "task", "t3", *way).output
    failed = run("describe", "task", "id-parked", *way).output
    for part in ("state      failed", "FAILURE ValueError", "parked, parked", "failed: why", "at the place"):
        assert part in failed, failed
    only = run("describe", "task", "id-waits", *way).output
    assert "known by its dead letter only" in only
    assert "waits, scheduled, " in only
    found = run("describe", "device", "GPU-a", *way).output
    assert "67.0 of 80.0 GiB schedulable" in found
    assert "t2" in found, "what runs there"
    assert "t1" not in found, "what ran there"
    by_id = run("describe", "node", "n1", *way).output
    for part in ("node       node-1", "7 of 8 free", "GPU-a", "t2"):
        assert part in by_id


def test_usage_and_nobody_there() -> None:
    assert run("describe", "task").exit_code == 2
    assert run("describe", "queue", "x").exit_code == 2
    assert run("describe", "task", "t1", "--url", "ftp://x").exit_code == 2
    port = free_port()
    for way in (["--url", f"http://127.0.0.1:{port}"], ["--redis-url", f"redis://127.0.0.1:{port}/0"]):
        for kind in ("task", "device", "node"):
            assert run("describe", kind, "x", *way).exit_code == 69
