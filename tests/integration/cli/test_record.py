"""`celeray record` on a real Redis: what is written, what is followed, and that `simulate` reads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.bridge.recorder import Begin, Recorder
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.status import TaskRecord, TaskState
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, record

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


@pytest.fixture
def store(redis_url: str) -> Iterator[StatusStore]:
    with redis.Redis.from_url(redis_url) as client:
        yield StatusStore(client, interval_s=10.0)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["record", *args])


def ended(task_id: str, ago_s: float, **changes: Any) -> TaskRecord:
    now = time.time()
    times = {"received_at": now - ago_s - 9, "started_at": now - ago_s - 7, "ended_at": now - ago_s}
    return record(task_id, **times | changes)


def publish(store: StatusStore, *records: TaskRecord, skipped: int = 0) -> None:
    status = bridge(written_at=time.time()).model_copy(update={"records_skipped": skipped})
    store.publish(status, [one.stored() for one in records])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_redis_still_has_is_written_oldest_first(
    store: StatusStore, redis_url: str, tmp_path: Path
) -> None:
    waiting = record("w", started_at=None, ended_at=None, run_s=None, state=TaskState.WAITING)
    never_began = ended("n", 5, started_at=None, wait_s=None, run_s=None, state=TaskState.REJECTED)
    publish(store, ended("new", 10), ended("old", 900, state=TaskState.FAILED), waiting, never_began)
    path = tmp_path / "ran.jsonl"
    done = run(str(path), "--redis-url", redis_url, "--for", "0")
    assert (done.exit_code, done.stderr) == (0, f"2 runs in {path}\n")
    found = lines(path)
    assert [(one["task_id"], one["state"], one["run_s"]) for one in found] == [
        *(("old", "failed", 7.0), ("new", "succeeded", 7.0)),
    ]
    assert found[0]["arrived_at"] == pytest.approx(time.time() - 909, abs=DEADLINE_S)


def test_all_that_a_request_asks_for_is_written(store: StatusStore, redis_url: str, tmp_path: Path) -> None:
    request = ResourceRequest(
        gpus=2, memory_mib=4096, exclusive=True, gpu_types=("A100",), cpus_milli=1500, host_memory_mib=99
    )
    facts = Recorder()
    for task_id, asked in (("much", request), ("plain", ResourceRequest(gpus=1, exclusive=True))):
        handle = facts.received(task_id, "film.render", "gpu.x", 7, asked, time.time() - 20)
        begin = Begin(
            node_id="n",
            node_name="n",
            device_uuids=("GPU-a",),
            executor_id="e",
            executor_class="c",
            warm=False,
        )
        facts.started(handle, begin, time.time() - 15)
        facts.ended(handle, TaskState.SUCCEEDED, time.time() - 5)
    stored = [one.stored("b", "gpu@b") for one in facts.take().facts]
    store.publish(bridge(written_at=time.time()), stored)
    path = tmp_path / "ran.jsonl"
    assert run(str(path), "--redis-url", redis_url, "--for", "0").exit_code == 0
    much, plain = lines(path)
    asked = {"gpus": 2, "vram_mib": 4096, "exclusive": True, "gpu_types": ["A100"]}
    assert asked | {"cpus_milli": 1500, "host_memory_mib": 99, "priority": 7} == {
        key: much[key] for key in (*asked, "cpus_milli", "host_memory_mib", "priority")
    }
    assert (plain["vram_mib"], plain["exclusive"], plain["cpus_milli"]) == (None, False, 0)


def test_it_follows_until_it_is_told_to_stop_and_goes_on_where_it_was(
    store: StatusStore, redis_url: str, tmp_path: Path
) -> None:
    publish(store, ended("before", 100))
    path = tmp_path / "ran.jsonl"
    command = [sys.executable, "-m", "celeray.cli", "record", str(path), "--redis-url", redis_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end_at = time.monotonic() + DEADLINE_S
        while not path.exists() or not path.read_text().endswith("\n"):
            assert process.poll() is None
            assert time.monotonic() < end_at
            time.sleep(0.05)
        # Of another bridge, which writes late: it ended before what was seen.
        publish(store, ended("late", 110), ended("after", 0), skipped=4)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert [one["task_id"] for one in lines(path)] == ["before", "late", "after"]
    assert said == f"4 short runs are not in it: bridges wrote no record of them\n3 runs in {path}\n"
    refused = run(str(path), "--redis-url", redis_url, "--for", "0")
    assert (refused.exit_code, "--append" in refused.output) == (2, True)
    publish(store, ended("more", 0))
    assert run(str(path), "--redis-url", redis_url, "--for", "0", "--append").exit_code == 0
    assert [one["task_id"] for one in lines(path)] == ["before", "late", "after", "more"]


def test_simulate_reads_what_was_recorded_on_the_cluster_as_it_is(
    store: StatusStore, redis_url: str, tmp_path: Path
) -> None:
    publish(store, *(ended(f"t{number}", 10.0 * number) for number in range(5)))
    path, nodes = tmp_path / "ran.jsonl", tmp_path / "nodes.json"
    done = run(str(path), "--redis-url", redis_url, "--for", "0", "--nodes", str(nodes))
    assert done.exit_code == 0, done.output
    simulated = CliRunner().invoke(
        main, ["simulate", "--trace", str(path), "--nodes", str(nodes), "-o", "json"]
    )
    assert simulated.exit_code == 0, simulated.output
    figures = json.loads(simulated.stdout)["policies"]["default"]
    assert (figures["unplaced"], figures["never_fit"]) == (0, 0)
    assert figures["wait_mean_s"] is not None


def test_nobody_there_is_69_and_a_bad_span_a_usage_error(tmp_path: Path) -> None:
    path = str(tmp_path / "ran.jsonl")
    assert run(path, "--redis-url", "redis://127.0.0.1:1/0", "--for", "0").exit_code == 69
    done = run(path, "--redis-url", "redis://127.0.0.1:1/0", "--for", "soon")
    assert done.exit_code == 2
    assert "'soon': expected 90s, 30m, 2h, 1d, or 0" in done.output
