"""Dead letters by state and exception in REST, and what waits in the metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.tokens import Role
from tests.integration.cli.test_letter_states import leave

pytestmark = pytest.mark.integration
PATH = "/v1/dead-letters"


@pytest.fixture
def operator(make_token: Callable[..., dict[str, str]]) -> dict[str, str]:
    return make_token(Role.OPERATOR)


def ids(api: TestClient, query: str = "") -> list[str]:
    return [letter["id"] for letter in api.get(f"{PATH}{query}").json()["letters"]]


def test_what_waits_is_apart(api: TestClient, redis_client: redis.Redis, operator: dict[str, str]) -> None:
    leave(redis_client, "parked", None)
    leave(redis_client, "waits", 60)

    assert ids(api) == ["parked"]
    assert ids(api, "?state=scheduled") == ["waits"]
    assert ids(api, "?exception=Value*") == ["parked"]
    assert ids(api, "?exception=Key*") == []
    assert api.get(f"{PATH}?state=lost").status_code == 422
    page = api.get("/metrics").text
    assert 'celeray_dead_letters{reason="failed"} 1.0' in page
    assert "celeray_retries_scheduled 1.0" in page
    found = api.get(f"{PATH}/waits", headers=operator).json()
    assert (found["state"], found["attempts"], found["exception"]) == ("scheduled", 2, "ValueError")
    assert found["history"][1]["devices"] == ["GPU-5d1f"]
    assert found["due_at"] == pytest.approx(found["parked_at"] + 60)


def test_a_scheduled_one_is_sent_or_discarded(
    api: TestClient, redis_client: redis.Redis, operator: dict[str, str]
) -> None:
    leave(redis_client, "one", 60)
    leave(redis_client, "two", 60)
    sent = api.post(f"{PATH}/redrive", json={"ids": ["one"]}, headers=operator).json()
    gone = api.post(
        f"{PATH}/discard", json={"filter": {"state": "scheduled"}, "why": "no"}, headers=operator
    ).json()

    assert (sent["sent"], gone["discarded"]) == (1, 1)
    assert (ids(api, "?state=redriven"), ids(api, "?state=discarded")) == (["one"], ["two"])
    refused = api.post(f"{PATH}/redrive", json={"filter": {"state": "discarded"}}, headers=operator)
    assert refused.status_code == 422
    assert "parked or scheduled" in refused.json()["detail"]
