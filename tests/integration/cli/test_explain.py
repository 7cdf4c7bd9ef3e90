"""`celeray explain` over REST (a real server) and over Redis: the same documents, the table, and the exit codes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from celeray.scheduler.embedded_redis import free_port
from celeray.scheduler.status_store import StatusStore
from tests.cycle_samples import fill
from tests.integration.cli.test_dead_letters import clean, client
from tests.integration.cli.test_letter_states import leave
from tests.integration.cli.test_status_and_get import api_url, run, store

__all__ = ["api_url", "clean", "client", "store"]

pytestmark = pytest.mark.integration
ASK = ("--ask", "gpu=2", "--ask", "vram_gb=20")


def without_ages(found: Any) -> Any:
    """What does not change from one answer to the next."""
    if isinstance(found, dict):
        return {name: without_ages(value) for name, value in found.items() if name != "age_s"}
    return [without_ages(item) for item in found] if isinstance(found, list) else found


def test_the_same_over_rest_and_over_redis(
    client: redis.Redis, store: StatusStore, redis_url: str, api_url: str
) -> None:
    fill(store)
    leave(client, "parked", None)
    time.sleep(0.3)  # the API's picture of the moment before
    ways = (["--redis-url", redis_url], ["--url", api_url])
    request = ("--request", '{"gpu": 2, "vram_gb": 20}', "--task", "film.x", "--priority", "9")
    for command in (["big"], ["next"], ["done"], ["id-parked"], ASK, request):
        direct, rest = (json.loads(run("explain", *command, "-o", "json", *way).output) for way in ways)
        assert without_ages(rest) == without_ages(direct)
    for way in ways:
        missing = run("explain", "nobody", *way)
        assert (missing.exit_code, "nobody" in missing.output) == (1, True)
        never = run("explain", "--ask", "vram_gb=30", *way)
        assert (never.exit_code, "the largest device has 24 GiB" in never.output) == (1, True)
        wrong = run("explain", "--ask", "vram_gb=-3", *way)
        assert (wrong.exit_code, "vram_gb=-3" in wrong.output) == (1, True)


def test_the_table_has_a_line_for_each_device(store: StatusStore, redis_url: str) -> None:
    fill(store)
    shown = run("explain", "big", "--redis-url", redis_url).output.splitlines()
    said = {line[:11].strip(): line[11:] for line in shown}
    assert said["reason"] == "exclusive"
    assert said["ahead"] == "0 task(s), at its own priority 5"
    assert said["starts"] == "in 9.0s on node-a a0 a1, in a new executor"
    assert said["reserved"] == "node-a a0 a1 for this task, in 9.0s"
    (first,) = (line for line in shown if line.startswith("node-a  a0"))
    assert "exclusive  A whole device is asked for" in first
    assert "Room is kept for big." in first
    assert "film.generate 24.0 GiB (run-1, ends in 5.0s)" in first
    assert sum(line.startswith("node-") for line in shown) == 5, (
        "three devices, and two nodes that have no place"
    )

    asked = run("explain", "--ask", "vram_gb=8", "--ask", "gpu_type=T4", "--redis-url", redis_url)
    assert asked.exit_code == 0
    assert "verdict    start" in asked.output
    assert "starts     now on node-b b0, in a new executor" in asked.output
    ran = run("explain", "run-1", "--redis-url", redis_url).output
    assert "how        It runs on node-1" in ran


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give either TASK_ID"),
        (["t1", "--ask", "gpu=1"], "give either TASK_ID"),
        (["--ask", "gpu"], "expected KEY=VALUE"),
        (["--request", "{"], "expected JSON"),
        (["--request", "[1]"], "expected a JSON object"),
        (["--request", "{}", "--ask", "gpu=1"], "not both"),
        (["--ask", "gpu=1", "--priority", "11"], "1<=x<=10"),
        (["--queue", "q" * 501], "--queue"),
    ],
)
def test_usage(args: list[str], said: str) -> None:
    found = run("explain", *args)
    assert (found.exit_code, said in found.output) == (2, True), found.output


def test_nobody_there(store: StatusStore, redis_url: str) -> None:
    port = free_port()
    for way in (["--url", f"http://127.0.0.1:{port}"], ["--redis-url", f"redis://127.0.0.1:{port}/0"]):
        for command in (["t1"], ASK):
            assert run("explain", *command, *way).exit_code == 69
    silent = run("explain", *ASK, "--redis-url", redis_url)
    assert (silent.exit_code, "no bridge has published" in silent.output) == (69, True)
