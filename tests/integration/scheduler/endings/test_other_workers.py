"""Failed tasks on kombu's own transport, in other pools, and without letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.integration.bridge.live import application, until
from tests.integration.outcome_rows import PREFORK, ROWS, Site, check, check_nothing_left, send
from tests.integration.scheduler.endings.conftest import MODULE, QUEUE, LiveWorker

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]

BY_NAME = {f"{row.outcome}: {row.name}": row for row in ROWS}


@contextmanager
def running(url: str, folder: Path, *args: str, **env: str) -> Iterator[Site]:
    worker = LiveWorker(url, folder, *args, **env).start()
    try:
        with redis.Redis.from_url(url) as client:
            yield Site(application(url, MODULE), client, QUEUE, PREFORK, worker.node)
        worker.stop()
    finally:
        # After a failure: one that is left would work on what later tests send.
        worker.kill()


def test_on_kombus_own_transport_the_letter_comes_before_the_ack(redis_url: str, tmp_path: Path) -> None:
    with running(redis_url, tmp_path, "-P", "prefork", "-c", "1", CELERAY_TRANSPORT="kombu") as site:
        for name in (
            "success: after two retries by its policy",
            "exception: no policy",
            "exception: its policy gives up",
            "exception: acknowledged early, with a policy",
            "reject: Reject",
            "time_limit: sleeps on",
        ):
            check(BY_NAME[name], site, send(BY_NAME[name], site))


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_in_another_pool(redis_url: str, tmp_path: Path, pool: str) -> None:
    with running(redis_url, tmp_path, "-P", pool, "-c", "1") as site:
        for name in (
            "success: after two retries by its policy",
            "exception: no policy",
            "exception: its policy gives up",
            "exception: acknowledged early, with a policy",
            "reject: Reject",
            "host_memory: MemoryError",
        ):
            check(BY_NAME[name], site, send(BY_NAME[name], site))


def test_without_a_keeper_the_workers_send_what_is_due(redis_url: str, tmp_path: Path) -> None:
    with running(redis_url, tmp_path, "-P", "solo", TEST_LEASE_S="1") as site:
        result = site.app.tasks["ends.recovers_retried"].apply_async((2,), queue=QUEUE)
        assert result.get(timeout=60) == 0


def test_without_letters_a_failure_is_all_that_is_left(redis_url: str, tmp_path: Path) -> None:
    with running(redis_url, tmp_path, "-P", "solo", CELERAY_FAILED_TASK_LETTERS="false") as site:
        for task in ("ends.fails", "ends.fails_retried"):
            result = site.app.tasks[task].apply_async(("x",), queue=QUEUE)
            assert until(lambda result=result: site.forward() == 0 and result.state == "FAILURE", "it fails")
            check_nothing_left(site)
        assert site.letters.count() == 0


def test_without_a_keeper_the_workers_forget_letters_that_are_too_many(
    redis_url: str, tmp_path: Path
) -> None:
    with running(redis_url, tmp_path, "-P", "solo", TEST_LEASE_S="1", CELERAY_LETTERS_MAX="3") as site:
        results = [site.app.tasks["ends.fails"].apply_async(("x",), queue=QUEUE) for _ in range(8)]
        until(lambda: all(result.state == "FAILURE" for result in results), "all have failed")
        check_nothing_left(site)
        until(lambda: site.letters.count() == 3, "the oldest are forgotten")
        assert {letter.task_id for letter in site.letters.walk()} == {result.id for result in results[-3:]}
