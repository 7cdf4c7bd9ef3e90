"""When a dedup key is free again: at every end of a task in a real worker, and not before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain

from celeray.scheduler.errors import DuplicateTaskError
from tests.integration.scheduler.submission.conftest import Look


@pytest.fixture
def tasks(front: Any, start_worker: Callable[..., Any], transport: str) -> Any:
    start_worker("-I", "tests.apps.front_submit", "-P", "threads", "-c", "4", CELERAY_TRANSPORT=transport)
    sys.modules.pop("tests.apps.front_submit", None)
    from tests.apps import front_submit

    return front_submit


def test_a_key_is_held_while_the_task_goes_on_and_free_at_each_end(
    tasks: Any, look: Look, eventually: Callable[..., Any]
) -> None:
    def free() -> bool:
        return not look.held_keys()

    first = tasks.once.delay("slow", 1.0)
    eventually(lambda: look.ran("slow"))
    assert [tasks.once.delay("slow", 1.0).id for _ in range(3)] == [first.id] * 3
    assert first.get(timeout=10) == "slow"
    eventually(free)
    assert tasks.once.delay("slow", 1.0).id != first.id
    eventually(lambda: look.ran("slow") == 2)
    eventually(free)

    early = tasks.once_early.delay("early", 1.0)
    eventually(lambda: look.ran("early") and not look.client.hlen("unacked"))
    assert tasks.once_early.delay("early", 1.0).id == early.id
    eventually(free)

    for how in ("error", "reject", "ignore"):
        tasks.once_failing.delay(how, how)
        eventually(lambda how=how: look.ran(how) == 1)
        eventually(free)

    retried = tasks.once_retried.delay("retried", 0.8)
    eventually(lambda: look.ran("retried"))
    eventually(lambda: retried.state == "RETRY")
    assert tasks.once_retried.delay("retried", 0.8).id == retried.id
    assert retried.get(timeout=10) == 1
    eventually(free)
    assert look.ran("retried") == 2

    replaced = tasks.once_replaced.delay("replaced", 0.8)
    eventually(lambda: look.ran("replaced"))
    eventually(lambda: look.client.hlen("unacked") == 1)
    assert tasks.once_replaced.delay("replaced", 0.8).id == replaced.id
    assert replaced.get(timeout=10) == "replaced"
    eventually(free)

    tasks.once.apply_async(("expired",), expires=-5)
    eventually(free)
    revoked = tasks.once.apply_async(("revoked",), countdown=2)
    revoked.revoke()
    eventually(free)
    assert look.ran("expired") == look.ran("revoked") == 0


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_in_a_worker_a_duplicate_at_the_end_of_a_chain_fails_loudly(
    tasks: Any, look: Look, eventually: Callable[..., Any]
) -> None:
    tasks.once.apply_async((3, 2.0))
    eventually(lambda: look.ran("3"))
    ended = chain(tasks.add.s(1, 2), tasks.once.s(2.0))()
    with pytest.raises(DuplicateTaskError, match=r"front\.once is a duplicate"):
        ended.get(timeout=10)


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_a_batch_that_a_task_submits(tasks: Any, look: Look) -> None:
    result = tasks.batching.delay(3)
    *ids, own = result.get(timeout=20)
    assert [tasks.app.AsyncResult(one).get(timeout=20) for one in ids] == [0, 2, 4]
    [group] = result.children
    assert [child.id for child in group.results] == ids
    meta = tasks.app.backend.get_task_meta(ids[0])
    assert (own, meta["status"]) == (result.id, "SUCCESS")


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
def test_results_are_kept_as_long_as_the_task_or_the_call_says(
    tasks: Any, look: Look, eventually: Callable[..., Any]
) -> None:
    def ttl(result: Any) -> int:
        return int(look.client.ttl(f"celery-task-meta-{result.id}"))

    declared, failed = tasks.short_lived.delay(), tasks.short_lived.delay(True)
    called = tasks.short_lived.apply_async(headers={"result_ttl_s": 20})
    plain = tasks.add.delay(1, 1)
    started = tasks.slow.apply_async(("s", 1.0), headers={"result_ttl_s": 30})
    eventually(lambda: started.state == "STARTED")
    assert 20 < ttl(started) <= 30
    for result in (declared, failed, called, plain, started):
        eventually(result.ready)
    assert 40 < ttl(declared) <= 50
    assert 40 < ttl(failed) <= 50
    assert 10 < ttl(called) <= 20
    assert ttl(plain) > 3000
    assert 20 < ttl(started) <= 30
