"""Every route of the router, called by everybody who must not: none is open unless the table says so."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from celeray.api import access
from celeray.api.access import RULES, Rule
from celeray.api.app import create_app
from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, mint
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore

pytestmark = pytest.mark.integration
MakeToken = Callable[..., dict[str, str]]
EXAMPLES = {
    "{name}": "gpu.generation",
    "{uuid}": "GPU-a",
    "{task_id}": "t1",
    "{letter_id}": "l1",
    "{asset}": "swagger-ui.css",
}
BODIES = {
    f"/v1/dead-letters/{verb}": {"ids": ["l1"], "why": "for the test"} for verb in ("redrive", "discard")
}
BODIES["/v1/explain"] = {"resource_requirements": {"vram_gb": 8}}
BODIES["/v1/learned/reset"] = {"task": "film.generate", "why": "for the test"}
WRONG = {"Authorization": "Bearer celeray_00000000_" + "x" * 43}


def declared(router: Any) -> set[tuple[str, str]]:
    """Every method and path that a router really serves, those of included routers among them."""
    found: set[tuple[str, str]] = set()
    for route in router.routes:
        if inner := getattr(route, "original_router", None):
            found |= declared(inner)
        else:
            found |= {(method, route.path) for method in route.methods}
    return found


def url_of(rule: Rule) -> str:
    path = rule.path
    for name, value in EXAMPLES.items():
        path = path.replace(name, value)
    assert "{" not in path, "give an example of the parameter"
    return path


OPEN_ON_LOOPBACK = {
    *(url_of(rule) for rule in RULES if rule.method == "GET" and rule.role is Role.VIEWER),
    "/v1/explain",  # a dry run: the one POST that changes nothing
}


def call(api: TestClient, rule: Rule, headers: dict[str, str] | None = None) -> Any:
    document = BODIES.get(rule.path, {"why": "for the test"})
    body = {"json": document} if rule.method == "POST" else {}
    return api.request(rule.method, url_of(rule), headers=headers, **body)


@pytest.fixture
def closed(store: StatusStore, settings: Settings) -> Iterator[TestClient]:
    """An API that asks for a token to read, too."""
    strict = settings.model_copy(update={"api_read_requires_token": True})
    with TestClient(create_app(strict, store), base_url="http://127.0.0.1") as client:
        yield client


def test_the_table_is_the_router(api: TestClient) -> None:
    served = declared(api.app)
    assert len(served) > 10
    assert served == {(rule.method, rule.path) for rule in RULES}


def test_a_route_that_nobody_listed_is_not_reached(store: StatusStore, settings: Settings) -> None:
    app = create_app(settings, store)
    app.add_api_route("/v1/new", lambda: {"secret": 1}, methods=["GET", "POST"])
    assert ("POST", "/v1/new") in declared(app)
    with TestClient(app, base_url="http://127.0.0.1") as api:
        for method in ("GET", "POST"):
            answer = api.request(method, "/v1/new")
            assert (answer.status_code, "secret" in answer.text) == (404, False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.method} {rule.path}")
def test_without_wrong_or_lower_token(
    api: TestClient, closed: TestClient, make_token: MakeToken, rule: Rule
) -> None:
    headers = {role: make_token(role) for role in Role}
    for client, reads_are_open in ((api, True), (closed, False)):
        nothing, wrong = call(client, rule), call(client, rule, WRONG)
        if rule.role is None:
            assert nothing.status_code == wrong.status_code
            assert nothing.status_code not in (401, 403)
            continue
        is_open = reads_are_open and url_of(rule) in OPEN_ON_LOOPBACK
        assert (nothing.status_code == 401) is not is_open
        assert wrong.status_code == 401
        assert wrong.headers["www-authenticate"] == 'Bearer realm="celeray", error="invalid_token"'
        assert wrong.headers["content-type"] == "application/problem+json"
        for role in Role:
            status = call(client, rule, headers[role]).status_code
            assert (status == 403) is not role.covers(rule.role), role
            assert status != 401
            if role is Role.ADMIN:
                # Without a bridge nothing can be said of a request.
                assert status == 503 if rule.path == "/v1/explain" else status in (200, 404)


def test_without_any_token_it_only_reads(api: TestClient) -> None:
    for rule in RULES:
        answer = call(api, rule)
        if rule.role in (None, Role.VIEWER):
            assert answer.status_code in (200, 404, 503), rule
        else:
            assert answer.status_code == 403, rule
            assert "celeray token create" in answer.json()["detail"]
            assert call(api, rule, WRONG).status_code == 403


def test_unknown_wrong_and_expired_are_answered_alike(
    api: TestClient, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = make_token(Role.ADMIN)["Authorization"]
    unknown = "Bearer celeray_ffffffff_" + right[-43:]
    changed = right[:-1] + ("A" if right[-1] != "A" else "B")
    expired = make_token(Role.ADMIN, valid_s=0.0)["Authorization"]
    answers = []
    for sent in (unknown, changed, expired, "Bearer", "Bearer x", "Basic dTpw", f"{right} x", ""):
        answer = api.get("/v1/audit", headers={"Authorization": sent})
        assert answer.status_code == 401, sent
        document = answer.json()
        document.pop("instance")
        answers.append((document, answer.headers["www-authenticate"]))
    assert all(answer == answers[0] for answer in answers)
    twice = [("Authorization", right), ("Authorization", right)]
    assert api.get("/v1/audit", headers=twice).status_code == 401
    assert api.get("/v1/audit", headers={"Authorization": right}).status_code == 200


def test_a_token_in_the_url_is_none(api: TestClient, make_token: MakeToken) -> None:
    text = make_token(Role.ADMIN)["Authorization"].removeprefix("Bearer ")
    for name in ("access_token", "token", "authorization"):
        assert api.get("/v1/audit", params={name: text}).status_code == 401


def test_rotation_and_revocation_need_no_restart(api: TestClient, settings: Settings) -> None:
    file = TokenFile(settings.tokens_file)
    (old, old_text), (new, new_text) = (mint(Role.ADMIN, now=time.time(), valid_s=60) for _ in range(2))

    def status(text: str) -> int:
        return int(api.get("/v1/audit", headers={"Authorization": f"Bearer {text}"}).status_code)

    file.add(old)
    assert (status(old_text), status(new_text)) == (200, 401)
    file.add(new)
    assert (status(old_text), status(new_text)) == (200, 200)
    file.remove(old.id)
    assert (status(old_text), status(new_text)) == (401, 200)


def test_a_file_that_others_may_read_stops_all_that_needs_a_token(
    api: TestClient, settings: Settings, make_token: MakeToken, caplog: pytest.LogCaptureFixture
) -> None:
    headers = make_token(Role.ADMIN)
    assert api.get("/v1/audit", headers=headers).status_code == 200
    os.chmod(settings.tokens_file, 0o640)
    with caplog.at_level(logging.ERROR):
        assert api.get("/v1/audit", headers=headers).status_code == 503
    assert "0640" in caplog.text
    assert api.get("/v1/status").status_code == 200
    os.chmod(settings.tokens_file, 0o600)
    assert api.get("/v1/audit", headers=headers).status_code == 200


def test_wrong_tokens_are_limited_by_address_and_right_ones_are_not(
    api: TestClient, make_token: MakeToken, caplog: pytest.LogCaptureFixture
) -> None:
    right = make_token(Role.ADMIN)
    with caplog.at_level(logging.WARNING):
        statuses = [api.get("/v1/audit", headers=WRONG).status_code for _ in range(15)]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429
    refused = api.get("/v1/audit", headers=WRONG)
    assert (refused.status_code, refused.json()["status"]) == (429, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 7
    assert api.get("/v1/audit", headers=right).status_code == 200
    assert "a wrong token from" in caplog.text
    assert WRONG["Authorization"].removeprefix("Bearer ") not in caplog.text


def test_writes_are_limited_by_token(
    api: TestClient, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = make_token(Role.OPERATOR)
    path = "/v1/queues/gpu.generation/resume"
    statuses = [api.post(path, headers=headers).status_code for _ in range(access.WRITES_BURST + 60)]
    assert 429 in statuses
    assert statuses[: access.WRITES_BURST] == [200] * access.WRITES_BURST
    assert api.post(path, headers=make_token(Role.OPERATOR)).status_code == 200


def test_the_file_holds_no_secret(settings: Settings, make_token: MakeToken) -> None:
    text = make_token(Role.VIEWER)["Authorization"].removeprefix("Bearer ")
    content = Path(settings.tokens_file).read_text()
    assert text.rpartition("_")[2] not in content
    assert text[-43:] not in content
    assert json.loads(content)["tokens"][0]["role"] == "viewer"
