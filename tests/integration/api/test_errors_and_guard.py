"""Every error is a problem document; every response has the headers; foreign host names are refused."""

from __future__ import annotations

import logging

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

pytestmark = pytest.mark.integration
MEMBERS = {"type", "title", "status", "detail", "instance"}


def test_not_found_and_not_allowed(api: TestClient) -> None:
    for method, path, status in (
        ("GET", "/v2", 404),
        ("POST", "/v1/status", 405),
        ("DELETE", "/v1/tasks", 405),
    ):
        answer = api.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) >= MEMBERS
        assert path in answer.json()["detail"]


def test_a_defect_has_an_id_and_no_traceback(
    api: TestClient, store: StatusStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(store, "unacked", broken)
    with caplog.at_level(logging.ERROR):
        answer = api.get("/v1/status")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["instance"] in caplog.text
    assert "a secret of the inside" in caplog.text


def test_documents_of_another_version_are_said(api: TestClient, redis_client: redis.Redis) -> None:
    redis_client.zadd("celeray:bridges", {"b1": 1})
    redis_client.set("celeray:bridge:b1", "{}")
    answer = api.get("/v1/status")
    assert answer.status_code == 503
    assert "incompatible version" in answer.json()["detail"]


def test_headers_on_every_response(api: TestClient) -> None:
    for path in ("/v1/status", "/healthz", "/nowhere", "/metrics"):
        headers = api.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_headers_on_the_answer_to_a_defect(
    api: TestClient, store: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError

    monkeypatch.setattr(store, "unacked", broken)
    answer = api.get("/v1/status")
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", ""]
)
def test_a_foreign_name_is_refused(api: TestClient, host: str) -> None:
    answer = api.get("/v1/status", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "10.0.0.7:8000", "gpu.example"]
)
def test_our_own_names_and_addresses_are_served(store: StatusStore, host: str) -> None:
    app = create_app(Settings(api_allowed_hosts=("gpu.example",)), store)
    with TestClient(app, base_url="http://127.0.0.1") as api:
        assert api.get("/v1/status", headers={"Host": host}).status_code == 200
