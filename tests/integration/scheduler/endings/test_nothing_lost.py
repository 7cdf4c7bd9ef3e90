"""Tasks that fail in three ways over three queues, while their workers are killed: each ends once, and none is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import send_due
from celeray.scheduler.letters.record import LetterState
from celeray.scheduler.letters.store import Letters
from tests.integration.bridge.live import application, until
from tests.integration.scheduler.endings.conftest import MODULE, LiveWorker

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]

QUEUES = ("cpu.analysis", "cpu.thumbnail", "io.storage")


def submit(url: str, number: int, deadly: int) -> dict[str, str]:
    """Kind by task id: well, bad, deadly, or retried by its policy. A third of all goes to each queue."""
    tasks = application(url, MODULE).tasks
    kinds: dict[str, str] = {}
    for index in range(number):
        kind = "deadly" if index < deadly else ("well", "bad", "retried")[index % 3]
        name, args = ("ends.mixed_retried", ()) if kind == "retried" else ("ends.mixed", (kind,))
        kinds[tasks[name].apply_async(args, queue=QUEUES[index % len(QUEUES)]).id] = kind
    return kinds


@contextmanager
def working(url: str, folder: Path) -> Iterator[list[LiveWorker]]:
    """Two workers. None is left, however the test ends: it would work on what later tests send."""
    made = [
        LiveWorker(url, folder, "-Q", ",".join(QUEUES), "-c", "2", name=f"w{index}", TEST_LEASE_S="2")
        for index in range(2)
    ]
    try:
        yield [worker.start() for worker in made]
        for worker in made:
            worker.stop()
    finally:
        for worker in made:
            worker.kill()


def run(url: str, folder: Path, kinds: dict[str, str], *, kills: int, deadline_s: float) -> None:
    """Run them with two workers of which one is killed, with its children, and started again, so often."""
    chance = random.Random(4)
    with working(url, folder) as workers, redis.Redis.from_url(url) as client:
        letters, keys, total = Letters(client, Keys()), Keys(), len(kinds)
        open_ones = [f"celery-task-meta-{one}" for one, kind in kinds.items() if kind == "well"]
        good = len(open_ones)

        def ended() -> int:
            send_due(client, keys, dedup_hold_max_s=3600)
            if open_ones:
                found = zip(open_ones, client.mget(open_ones), strict=True)
                open_ones[:] = [key for key, result in found if b'"SUCCESS"' not in (result or b"")]
            return int(letters.count()) + good - len(open_ones)

        for number in range(1, kills + 1):
            until(lambda number=number: ended() >= total * number / (kills + 2), "they get on", deadline_s)
            victim = chance.choice(workers)
            victim.kill()
            victim.start(wait=False)
        until(lambda: ended() == total, "all have ended", deadline_s)
        until(lambda: not client.hlen("unacked") and not client.hlen(keys.scheduled()[0]), "nothing is held")


def check_ends(url: str, kinds: dict[str, str]) -> None:
    app = application(url, MODULE)
    with redis.Redis.from_url(url) as client:
        found = Letters(client, Keys())
        letters = {letter.task_id: letter for letter in found.walk()}
        assert list(found.walk(LetterState.SCHEDULED)) == []
    successes = {one for one in kinds if AsyncResult(one, app=app).state == "SUCCESS"}

    assert not successes & set(letters), "one that ended well has no letter"
    assert successes | set(letters) == set(kinds), "none is lost, and none was made up"
    for task_id, kind in kinds.items():
        letter = letters.get(task_id)
        if kind == "deadly":
            assert letter is not None
            assert letter.reason == "poison"
        elif letter is not None:
            # Killed with its worker so often that it looks as if it were the cause, or failed as it was told.
            assert letter.reason in ("poison", "failed")
            assert kind != "well" or letter.reason == "poison"
            assert letter.reason == "poison" or letter.attempts >= (3 if kind == "retried" else 1)


def test_letters_and_successes_are_what_was_submitted(redis_url: str, tmp_path: Path) -> None:
    kinds = submit(redis_url, 300, deadly=6)
    run(redis_url, tmp_path, kinds, kills=2, deadline_s=120)
    check_ends(redis_url, kinds)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_of_ten_thousand(redis_url: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    kinds = submit(redis_url, 10_000, deadly=60)
    run(redis_url, tmp_path, kinds, kills=10, deadline_s=1200)
    check_ends(redis_url, kinds)
    print(f"{len(kinds)} tasks in {time.monotonic() - begin:.0f} s")
