"""The keeper is killed while messages wait for their time in Redis. Stock has none: it holds them in a worker."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.faults.workers import Keeper

FAULT = "keeper SIGKILL while tasks wait for their eta"
COUNTDOWN_S = 5.0


@pytest.mark.slow
def test_keepers_killed_at_random(make_rig: Any, settle: Any) -> None:
    rig = make_rig("leased", settings={"eta_in_memory_s": 1.0})
    chance = random.Random(3)
    rig.start_workers(2, "-P", "threads", "-c", "2")
    submitter = rig.submitter()
    submitted_at = {submitter.work(0.05, countdown=COUNTDOWN_S): time.monotonic() for _ in range(30)}
    for number in range(4):
        keeper = rig.watch(Keeper(rig.config(), rig.folder, f"keeper{number}")).await_ready()
        time.sleep(chance.uniform(0.2, 1.5))
        rig.fault("keeper killed", crash=False)
        keeper.kill()
    settle(rig, FAULT)
    for record in rig.history.read():
        if record["event"] == "start" and record["id"] in submitted_at:
            early_s = submitted_at[record["id"]] + COUNTDOWN_S - record["at"]
            assert early_s < 0.5, f"{record['id']} ran {early_s:.1f} s before its time"
