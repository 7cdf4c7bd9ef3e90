"""Pausing and resuming by REST: what is kept, shown, refused and written to the trail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.api.tokens import Role
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import QueueStatus
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.topology import BrokerKind
from tests.status_samples import bridge

pytestmark = pytest.mark.integration
MakeToken = Callable[..., dict[str, str]]
QUEUE = "/v1/queues/gpu.generation"


@pytest.fixture
def operator(make_token: MakeToken) -> dict[str, str]:
    return make_token(Role.OPERATOR)


@pytest.fixture
def admin(make_token: MakeToken) -> dict[str, str]:
    return make_token(Role.ADMIN)


def token_id(headers: dict[str, str]) -> str:
    return headers["Authorization"].split("_")[1]


def test_pause_and_resume(
    api: TestClient, operator: dict[str, str], admin: dict[str, str], store: StatusStore
) -> None:
    before = time.time()
    assert api.get(QUEUE).json()["paused"] is None
    answer = api.post(f"{QUEUE}/pause", json={"why": "driver update"}, headers=operator)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    pause = document["paused"]
    assert (document["queue"], document["changed"]) == ("gpu.generation", True)
    assert (pause["by"], pause["why"]) == (f"token:{token_id(operator)}", "driver update")
    assert before <= pause["at"] <= time.time()
    # What was read a moment ago is not shown again after a write.
    assert QueueStatus.model_validate(api.get(QUEUE).json()).paused is not None
    shown = {queue["name"]: queue["paused"] for queue in api.get("/v1/queues").json()["queues"]}
    assert {name for name, paused in shown.items() if paused} == {"gpu.generation"}
    assert api.get("/v1/status").json()["paused"] == {"gpu.generation": pause}
    resumed = api.post(f"{QUEUE}/resume", headers=admin).json()
    assert resumed == {"queue": "gpu.generation", "paused": None, "changed": True}
    assert api.get(QUEUE).json()["paused"] is None
    again = api.post(f"{QUEUE}/resume", json={"why": "done"}, headers=admin).json()
    assert again["changed"] is False
    trail = api.get("/v1/audit", headers=admin).json()["records"]
    assert [(item["action"], item["by"], item["target"], item["why"]) for item in trail] == [
        ("resume", f"token:{token_id(admin)}", "gpu.generation", "resumed"),
        ("pause", f"token:{token_id(operator)}", "gpu.generation", "driver update"),
    ]


def test_a_paused_queue_is_no_problem_of_the_cluster(
    api: TestClient, operator: dict[str, str], store: StatusStore
) -> None:
    store.publish(bridge(written_at=time.time(), queues=()), [])
    api.post(f"{QUEUE}/pause", json={"why": "x"}, headers=operator)
    found = api.get("/v1/status").json()
    assert (found["state"], list(found["paused"])) == ("ok", ["gpu.generation"])


def test_the_trail_is_paged(api: TestClient, operator: dict[str, str], admin: dict[str, str]) -> None:
    for number in range(5):
        api.post(f"{QUEUE}/pause", json={"why": f"reason {number}"}, headers=operator)
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor:
        given = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = api.get("/v1/audit", params=given, headers=admin).json()
        seen += [item["why"] for item in page["records"]]
        cursor, pages = page["next"], pages + 1
    assert (seen, pages) == ([f"reason {number}" for number in (4, 3, 2, 1, 0)], 3)
    for wrong in ({"cursor": "+"}, {"cursor": "1-1 x"}, {"limit": 0}, {"limit": 501}):
        answer = api.get("/v1/audit", params=wrong, headers=admin)
        assert answer.status_code == 422
        assert [item["parameter"] for item in answer.json()["errors"]] == [next(iter(wrong))]


def test_an_unknown_queue_names_the_known_ones(api: TestClient, operator: dict[str, str]) -> None:
    for action, body in (("pause", {"why": "x"}), ("resume", {})):
        answer = api.post(f"/v1/queues/gpu.nothing/{action}", json=body, headers=operator)
        assert answer.status_code == 404
        assert "gpu.generation" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "why"),
        (None, "body"),
        ({"why": ""}, "why"),
        ({"why": " "}, "why"),
        ({"why": "x" * 501}, "why"),
        ({"why": "two\nlines"}, "why"),
        ({"why": 7}, "why"),
        ({"why": "x", "for": "1h"}, "for"),
        (["why"], "body"),
    ],
)
def test_bad_bodies_are_problems_that_name_the_field(
    api: TestClient, operator: dict[str, str], body: Any, parameter: str, redis_client: redis.Redis
) -> None:
    answer = api.post(f"{QUEUE}/pause", headers=operator, **({} if body is None else {"json": body}))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [item["parameter"] for item in answer.json()["errors"]] == [parameter]
    assert not redis_client.exists("celeray:paused", "celeray:audit")


@pytest.mark.parametrize(
    ("changes", "kind", "named"),
    [({"transport": "kombu"}, BrokerKind.REDIS, "leased"), ({}, BrokerKind.AMQP, "Redis only")],
)
def test_what_nobody_would_honour_is_refused(
    store: StatusStore,
    settings: Settings,
    operator: dict[str, str],
    changes: dict[str, str],
    kind: BrokerKind,
    named: str,
    redis_client: redis.Redis,
) -> None:
    app = create_app(settings.model_copy(update=changes), store, broker_kind=kind)
    with TestClient(app, base_url="http://127.0.0.1") as api:
        answer = api.post(f"{QUEUE}/pause", json={"why": "x"}, headers=operator)
    assert answer.status_code == 409
    assert named in answer.json()["detail"]
    assert not redis_client.exists("celeray:paused", "celeray:audit")
