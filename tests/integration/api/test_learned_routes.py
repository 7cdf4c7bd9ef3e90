"""What was learned, by REST, the command line and /metrics, and how it is forgotten."""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Callable

import pytest
import redis
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from celeray.api.tokens import Role
from celeray.cli import main
from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.keys import Keys
from celeray.scheduler.learned.store import LearnedStore, Noted, Series
from celeray.scheduler.model import Attribution
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, record

pytestmark = pytest.mark.integration
MakeToken = Callable[..., dict[str, str]]
TASK, A10, A100 = "film.generate", "NVIDIA A10", "NVIDIA A100"


@pytest.fixture
def learned(redis_client: redis.Redis) -> float:
    """Eleven runs on one model, two whole devices on another; when they were seen."""
    now = time.time()
    LearnedStore(redis_client, Keys()).add(
        {
            Series(TASK, A100): Noted({1024: 6, 4096: 4, 5120: 1}, 8192, 40960),
            Series(TASK, A10): Noted({2048: 2}, None, 24576),
        },
        now,
    )
    return now


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_nothing_is_learned_at_first(api: TestClient, redis_url: str) -> None:
    assert api.get("/v1/learned").json() == {"tasks": []}
    assert run("get", "learned", "--redis-url", redis_url).output == "nothing learned\n"


def test_observed_stands_beside_asked(api: TestClient, redis_url: str, learned: float) -> None:
    found = api.get("/v1/learned").json()
    few, enough = found["tasks"]
    assert enough == {
        "task": TASK,
        "gpu_type": A100,
        "asked_mib": 8192,
        "observed": {"runs": 11, "p50_mib": 1024, "p95_mib": 5120, "max_mib": 5120},
        "learned_mib": 5632,
        "seen_at": learned,
    }
    assert (few["gpu_type"], few["asked_mib"], few["learned_mib"]) == (A10, None, None)
    shown = run("get", "learned", TASK, "--redis-url", redis_url, "-o", "json")
    assert json.loads(shown.output) == found
    rows = run("get", "learned", "--redis-url", redis_url).output.splitlines()
    assert rows[1].split()[3:9] == ["whole", "2", "2.0", "2.0", "2.0", "-"]
    assert rows[2].split()[3:9] == ["8.0", "11", "1.0", "5.0", "5.0", "5.5"]
    assert run("get", "learned", "film.other", "--redis-url", redis_url).output == "nothing learned\n"


def test_metrics(api: TestClient, learned: float) -> None:
    lines = [line for line in api.get("/metrics").text.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    mib, labels = 1024**2, f'gpu_type="{A100}",name="{TASK}"'
    peaks = {
        quantile: values[f'celeray_task_vram_peak_bytes{{{labels},quantile="{quantile}"}}']
        for quantile in ("0.5", "0.95", "1")
    }
    assert peaks == {"0.5": 1024 * mib, "0.95": 5120 * mib, "1": 5120 * mib}
    assert values[f"celeray_task_vram_observations{{{labels}}}"] == 11
    assert values[f"celeray_task_vram_asked_bytes{{{labels}}}"] == 8192 * mib
    assert values[f"celeray_task_vram_learned_bytes{{{labels}}}"] == 5632 * mib
    others = f'gpu_type="{A10}",name="{TASK}"'
    assert f"celeray_task_vram_observations{{{others}}}" in values
    assert f"celeray_task_vram_asked_bytes{{{others}}}" not in values, "whole devices"
    assert f"celeray_task_vram_learned_bytes{{{others}}}" not in values, "too few runs"


def test_a_reset_by_rest(
    api: TestClient, make_token: MakeToken, redis_client: redis.Redis, learned: float
) -> None:
    headers = make_token(Role.OPERATOR)

    def reset(**body: str) -> tuple[int, dict[str, object]]:
        answer = api.post("/v1/learned/reset", json={"why": "new model", **body}, headers=headers)
        return answer.status_code, answer.json()

    assert reset(task=TASK, gpu_type=A10) == (200, {"task": TASK, "gpu_types": [A10]})
    status, problem = reset(task=TASK, gpu_type=A10)
    assert status == 404
    assert f"nothing was learned of task '{TASK}' on '{A10}'" in str(problem["detail"])
    assert reset(task=TASK)[1] == {"task": TASK, "gpu_types": [A100]}
    assert reset(task=TASK)[0] == 404
    assert reset(task=TASK, why=" ")[0] == 422
    assert api.get("/v1/learned").json() == {"tasks": []}
    newest, _ = AuditTrail(redis_client, Keys()).page(10).records
    assert (newest.action, newest.target, newest.why) == (
        "reset-learned",
        f"learned VRAM of {TASK}",
        "new model",
    )
    assert newest.by.startswith("token:")


def test_a_reset_by_the_command_line(redis_url: str, redis_client: redis.Redis, learned: float) -> None:
    way = ("--redis-url", redis_url)
    assert run("learned", "reset", TASK, *way).exit_code == 2, "a reason is needed"
    done = run("learned", "reset", TASK, "--why", "new model", *way)
    assert (done.exit_code, done.output) == (0, f"what was learned of {TASK} on {A10}, {A100} is forgotten\n")
    again = run("learned", "reset", TASK, "--why", "new model", *way)
    assert again.exit_code == 1
    assert "nothing was learned of task" in again.output
    (kept,) = AuditTrail(redis_client, Keys()).page(10).records
    assert kept.by == f"{getpass.getuser()}@{socket.gethostname()}"
    assert run("learned", "reset", TASK, "--why", "w", "--redis-url", "redis://127.0.0.1:1").exit_code == 69


def test_a_task_shows_what_it_asked_had_and_used(
    api: TestClient, redis_client: redis.Redis, redis_url: str
) -> None:
    now = time.time()
    values = {"vram_mib": 8192, "reserved_mib": 5632, "peak_mib": 5120, "peak_attribution": Attribution.PID}
    ended = record(received_at=now - 10, started_at=now - 8, ended_at=now - 1, **values)
    StatusStore(redis_client, interval_s=10.0).publish(bridge(written_at=now), [ended.stored()])
    run_of_it = api.get(f"/v1/tasks/{ended.task_id}").json()["run"]
    assert {key: run_of_it[key] for key in values} == values
    header, row = run("get", "tasks", "--redis-url", redis_url).output.splitlines()
    assert "PEAK" in header
    assert " 5.0 " in row
    nodes = api.get("/v1/nodes").json()["nodes"]
    assert {node["attribution"] for node in nodes} == {"pid"}
