"""Over Sentinel: what was submitted durably is there after a failover, and nothing of it can be submitted twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

import celeray
from tests.integration.scheduler.submission.conftest import Look
from tests.integration.scheduler.transport.test_failover import MASTER, Replicated, replicated

__all__ = ["replicated"]


@pytest.mark.parametrize("transport", ["leased"], indirect=True)
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_dedup_and_batches_after_a_failover(
    make_app: Callable[..., Celery], replicated: Replicated, eventually: Callable[..., Any]
) -> None:
    app = make_app(
        replicated.url,
        {
            "broker_transport_options": {"master_name": MASTER},
            "result_backend_transport_options": {"master_name": MASTER},
        },
        durable_replicas=1,
        durable_timeout_s=10,
    )
    cut, render = app.tasks["film.cut"], app.tasks["film.render"]

    def submit() -> list[str]:
        batch = celeray.submit_batch([render.s(n) for n in range(3)], app, batch_id="night")
        return [cut.delay(1).id, *(one.id for one in batch.results)]

    before = submit()
    eventually(replicated.fail_over, 40)
    eventually(replicated.has_changed_places, 40)
    new = Look(replicated.replica.url)
    assert submit() == before
    assert sorted(new.ids()) == sorted(before)
    assert cut.delay(2).id == new.ids()[-1]
    new.client.close()
