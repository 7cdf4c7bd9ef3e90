"""64 submitters of the same 10,000 keys, in three processes, and a planned failover among it: one task a key.

What a task does for its key is done once, under its fence; repeated starts after the failover are counted and printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.effects import RAN_KEYS, STARTED_KEYS
from tests.faults.rig import Rig
from tests.faults.servers import ReplicatedBroker, until
from tests.faults.test_failover_faults import DURABLE_ON_ALL, QUICK_TO_NOTICE
from tests.faults.workers import ROOT

PROCESSES, SUBMITTERS, KEYS = 3, 64, 10_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def rig(make_rig: Callable[..., Rig], tmp_path: Path) -> Rig:
    broker = ReplicatedBroker(tmp_path / "replicated")
    return make_rig("leased", broker, options=QUICK_TO_NOTICE, settings=DURABLE_ON_ALL)


def test_each_key_has_one_task(rig: Rig, world: str) -> None:
    workers = [rig.begin_worker("-P", "threads", "-c", "8") for _ in range(2)]
    for worker in workers:
        worker.await_ready()
    submitters = [start(rig, number) for number in range(PROCESSES)]
    with redis.Redis.from_url(world) as client:
        runs: Any = client
        until(lambda: runs.hlen(RAN_KEYS) >= KEYS // 10, "a tenth has run", 300)
        assert runs.hlen(RAN_KEYS) < KEYS, "the failover would come after the last run"
        rig.fault("failover")
        rig.broker.failover()
        rig.broker.await_promotion()
        told = [told_by(process) for process in submitters]
        until(lambda: runs.hlen(RAN_KEYS) == KEYS, f"every key has run\n{rig.logs()}", 300)
        rig.drain()
        doubled = [key for key, count in runs.hgetall(RAN_KEYS).items() if int(count) > 1]
        assert not doubled, f"{len(doubled)} keys were done by more than one task: {doubled[:5]}"
        # An acknowledgement that only the old master had is lost with it, so its message starts again: no submission.
        starts = sum(map(int, runs.hvals(STARTED_KEYS)))
        print(
            f"{KEYS} keys, {starts - KEYS} repeated starts, {sum(count for count, _ in told)} repeated calls"
        )
    assert len({digest for _, digest in told}) == 1, "processes were told different things"
    assert sum(count for count, _ in told) > 0, "no submitter noticed the failover"


def start(rig: Rig, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.faults.dedup_submitters"]
    return subprocess.Popen(
        [*command, *map(str, (number, PROCESSES, SUBMITTERS, KEYS))],
        cwd=ROOT,
        env={**os.environ, **rig.config().environment()},
        stdout=subprocess.PIPE,
    )


def told_by(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    count, digest = output.split()
    return int(count), digest.decode()
