"""What a plain worker can't run is parked as it was, and the caller is told as by Celery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from tests.integration.refused_kinds import UNKNOWN, check_parked

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]

QUEUE = "cpu.analysis"


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_each_kind_is_parked_and_the_worker_goes_on(
    front: Celery,
    start_worker: Callable[..., Any],
    redis_url: str,
    eventually: Callable[..., Any],
    pool: str,
) -> None:
    worker = start_worker("-Q", QUEUE, "-P", pool, "-c", "1")

    tags = check_parked(redis_url, "front.seen", QUEUE, "front0@localhost")

    assert front.tasks["front.seen"].apply_async(queue=QUEUE).get(timeout=30)["queue"] == QUEUE
    assert worker.poll() is None
    # Celery's answer to the caller of an unknown task.
    result = AsyncResult(tags["unknown task"], app=front)
    assert result.state == "FAILURE"
    assert UNKNOWN in str(result.result)
    # What a redriven message does: the failure does not keep a later run from storing its success.
    front.tasks["front.seen"].apply_async(queue=QUEUE, task_id=result.id)
    assert eventually(lambda: AsyncResult(result.id, app=front).state == "SUCCESS")
