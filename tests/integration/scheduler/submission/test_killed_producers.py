"""A producer that is killed at any moment leaves all of a batch or nothing of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.scheduler.submission.conftest import Look

ROOT = Path(__file__).parents[4]
SIZE = 150
QUEUES = ("cpu.analysis", "io.storage", "cpu.thumbnail")
PRODUCER = f"""
import sys
from celery import Celery
import celeray
app = Celery("film", broker=sys.argv[1], backend=sys.argv[1], set_as_current=False)
celeray.install(app)
@app.task(shared=False, name="film.cut", deduplicate=True)
def cut(n): pass
number = 0
while True:
    signatures = [
        app.signature("film.cut" if n % 3 else "film.render", args=(f"{{number}}/{{n}}",), queue={QUEUES}[n % 3])
        for n in range({SIZE})
    ]
    celeray.submit_batch(signatures, app, batch_id=f"{{sys.argv[2]}}-{{number}}")
    print(number, flush=True)
    number += 1
"""


def kill_one(url: str, name: str, delay_s: float, *, batches: int = 1) -> None:
    """Kill a producer so long after it has submitted so many batches."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, url, name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    for number in range(batches):
        assert process.stdout.readline(), f"the producer ended after {number} batches"
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def check(look: Look) -> int:
    found = Counter(
        message["headers"]["group"]
        for queue in QUEUES
        for key in (f"{queue}\x06\x165",)
        for message in look.messages(key)
    )
    assert set(found.values()) == {SIZE}
    assert len(look.held_keys()) == len(found) * sum(1 for n in range(SIZE) if n % 3)
    return len(found)


def test_all_or_nothing(redis_url: str, look: Look) -> None:
    kill_one(redis_url, "only", random.Random(3).uniform(0.1, 0.3), batches=2)
    assert check(look) > 1


@pytest.mark.slow
def test_all_or_nothing_at_many_moments(redis_url: str, look: Look) -> None:
    draw = random.Random(7)
    for number in range(20):
        look.client.flushdb()
        kill_one(redis_url, f"producer{number}", draw.uniform(0.0, 0.4))
        assert check(look) >= 1
