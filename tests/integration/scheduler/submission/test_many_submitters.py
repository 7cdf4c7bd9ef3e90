"""Many submitters of the same keys, in several processes, and a worker that runs what they submit: one run a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.scheduler.submission.conftest import Look

ROOT = Path(__file__).parents[4]
PROCESSES = 3
BATCH = 500
SUBMITTERS = """
import sys, threading
from tests.apps.front_submit import app, once_an_hour
import celeray
app.finalize()
assert app.conf.broker_url
first, processes, submitters, keys, batch = map(int, sys.argv[1:])
def submit(number):
    # Every sixteenth calls one by one, the others in batches; each begins at another key.
    names = [f"k{(n + number * keys // 64) % keys}" for n in range(keys)]
    if number % 16 == 0:
        ids = [once_an_hour.delay(name).id for name in names]
    else:
        ids = [
            one.id
            for start in range(0, keys, batch)
            for one in celeray.submit_batch([once_an_hour.s(n) for n in names[start : start + batch]], app).results
        ]
    found[number] = dict(zip(names, ids))
found = {}
threads = [threading.Thread(target=submit, args=(n,)) for n in range(first, submitters, processes)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == len(threads), "a submitter failed"
assert all(one == found[first] for one in found.values()), "submitters disagree"
print(hash(tuple(sorted(found[first].items()))))
"""


def run(redis_url: str, look: Look, eventually: Callable[..., Any], *, submitters: int, keys: int) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "FRONT_REDIS_URL": redis_url,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SUBMITTERS, *map(str, (first, PROCESSES, submitters, keys, BATCH))],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
        )
        for first in range(PROCESSES)
    ]
    told = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert len(set(told)) == 1
    names = [f"ran:k{n}" for n in range(keys)]
    try:
        eventually(lambda: None not in look.client.mget(names), 120)
    except AssertionError:
        missing = [name for name, count in zip(names, look.client.mget(names), strict=True) if count is None]
        state = (len(missing), missing[:5], look.ids()[:5], look.client.hkeys("unacked")[:5])
        raise AssertionError(f"not run, waiting, held: {state}, of {len(look.held_keys())} keys") from None
    eventually(lambda: not look.client.hlen("unacked") and not look.ids())
    assert set(look.client.mget(names)) == {b"1"}


@pytest.fixture
def worker(start_worker: Callable[..., Any], transport: str) -> None:
    start_worker(
        *("-I", "tests.apps.front_submit", "-P", "threads", "-c", "8", "--prefetch-multiplier", "16"),
        CELERAY_TRANSPORT=transport,
    )


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_one_run_a_key(redis_url: str, look: Look, eventually: Callable[..., Any]) -> None:
    run(redis_url, look, eventually, submitters=24, keys=40)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("worker")
def test_64_submitters_of_10_000_keys(redis_url: str, look: Look, eventually: Callable[..., Any]) -> None:
    run(redis_url, look, eventually, submitters=64, keys=10_000)
