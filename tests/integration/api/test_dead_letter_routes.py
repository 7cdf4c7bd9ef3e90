"""Dead letters by REST: listed, shown, sent again, discarded; what is refused, and the trail."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.tokens import Role

pytestmark = pytest.mark.integration
MakeToken = Callable[..., dict[str, str]]
PATH = "/v1/dead-letters"


@pytest.fixture
def operator(make_token: MakeToken) -> dict[str, str]:
    return make_token(Role.OPERATOR)


def message(tag: str, task: str = "app.work") -> bytes:
    document = {
        "body": base64.b64encode(b"[[1], {}, {}]").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": f"id-{tag}", "task": task},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": tag,
            "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": "cpu.analysis"},
        },
    }
    return json.dumps(document).encode()


@pytest.fixture
def park(redis_client: redis.Redis) -> Callable[..., None]:
    def make(letter: str, raw: bytes | None = None, *, reason: str = "poison", at: float = 1000.0) -> None:
        record = {
            "reason": reason,
            "detail": "why",
            "list": "cpu.analysis",
            "at": at,
            "begun": 3,
            "message": raw if raw is not None else message(letter),
        }
        redis_client.hset("celeray:parked", letter, msgpack.packb(record, use_bin_type=False))

    return make


def test_list_show_redrive_discard(
    api: TestClient, operator: dict[str, str], make_token: MakeToken, park: Any, redis_client: redis.Redis
) -> None:
    for number in range(5):
        park(f"l{number}", at=1000.0 + number)
    park("bad", b"{", reason="unreadable", at=999.0)
    assert api.get("/v1/status").json()["dead_letters"] == 6
    first = api.get(PATH, params={"limit": 4}).json()
    assert [item["id"] for item in first["letters"]] == ["l4", "l3", "l2", "l1"]
    assert (first["total"], first["by_reason"]) == (6, {"poison": 5, "unreadable": 1})
    assert first["by_queue"] == {"cpu.analysis": 6}
    rest = api.get(PATH, params={"limit": 4, "cursor": first["next"]}).json()
    assert ([item["id"] for item in rest["letters"]], rest["next"]) == (["l0", "bad"], None)
    chosen = api.get(PATH, params={"reason": "poison", "task": "app.*", "since": 1002, "until": 1004}).json()
    assert [item["id"] for item in chosen["letters"]] == ["l3", "l2"]

    shown = api.get(f"{PATH}/l1", headers=operator).json()
    assert (shown["body"], shown["task_id"], shown["unreadable"]) == ("[[1], {}, {}]", "id-l1", None)
    assert base64.b64decode(shown["message_base64"]) == message("l1")
    assert api.get(f"{PATH}/none", headers=operator).status_code == 404

    body = {"filter": {"queue": "cpu.analysis"}, "dry_run": True}
    dry = api.post(f"{PATH}/redrive", json=body, headers=operator).json()
    assert (dry["dry_run"], dry["matched"], dry["sent"], dry["skipped"]) == (True, 6, 5, 1)
    assert redis_client.llen("cpu.analysis") == 0
    sent = api.post(f"{PATH}/redrive", json={"ids": ["l1", "bad"], "why": "fixed"}, headers=operator).json()
    assert (sent["sent"], sent["skipped_by_reason"]) == (1, {"unreadable": 1})
    assert redis_client.llen("cpu.analysis") == 1
    edits = {"ids": ["l2"], "queue": "io.storage", "priority": 1}
    assert api.post(f"{PATH}/redrive", json=edits, headers=operator).json()["sent"] == 1
    gone = api.post(f"{PATH}/discard", json={"all": True, "why": "old"}, headers=operator).json()
    assert (gone["discarded"], gone["skipped"]) == (4, 0)
    assert api.get(PATH).json()["total"] == 0
    trail = api.get("/v1/audit", headers=make_token(Role.ADMIN)).json()["records"]
    assert [(item["action"], item["target"], item["why"]) for item in trail] == [
        ("discard", "4 dead letters of all", "old"),
        ("redrive", "1 dead letters by id: l2, to io.storage, at priority 1", "redriven"),
        ("redrive", "1 dead letters by id: l1 bad", "fixed"),
    ]
    assert all(item["by"].startswith("token:") and item["at"] <= time.time() for item in trail)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("redrive", {}),
        ("redrive", {"filter": {}}),
        ("redrive", {"ids": []}),
        ("redrive", {"ids": ["a"], "all": True}),
        ("redrive", {"filter": {"colour": "red"}}),
        ("redrive", {"all": True, "rate": 0}),
        ("redrive", {"all": True, "rate": 0.01}),
        ("redrive", {"all": True, "priority": 11}),
        ("redrive", {"all": True, "why": "two\nlines"}),
        ("redrive", {"all": True, "extra": 1}),
        ("discard", {"all": True}),
        ("discard", {"all": True, "why": ""}),
        ("discard", {"why": "x"}),
    ],
)
def test_what_is_refused(
    api: TestClient,
    operator: dict[str, str],
    park: Any,
    redis_client: redis.Redis,
    verb: str,
    body: dict[str, Any],
) -> None:
    park("a")
    answer = api.post(f"{PATH}/{verb}", json=body, headers=operator)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"]
    assert redis_client.hlen("celeray:parked") == 1


def test_an_unknown_queue_and_a_wrong_cursor(api: TestClient, operator: dict[str, str], park: Any) -> None:
    park("a")
    answer = api.post(f"{PATH}/redrive", json={"all": True, "queue": "nowhere"}, headers=operator)
    assert (answer.status_code, "no queue 'nowhere'" in answer.text) == (404, True)
    for params in ({"cursor": "x"}, {"limit": 0}, {"since": "nan"}):
        assert api.get(PATH, params=params).status_code == 422


def test_viewers_see_no_arguments(api: TestClient, make_token: MakeToken, park: Any) -> None:
    park("a")
    assert api.get(f"{PATH}/a", headers=make_token(Role.VIEWER)).status_code == 403
    (listed,) = api.get(PATH).json()["letters"]
    assert not {"body", "headers", "message_base64"} & set(listed)


def test_strange_ids(api: TestClient, operator: dict[str, str], park: Any, redis_client: redis.Redis) -> None:
    for field in (b"tag#17", b"a/b", b"\xff%"):
        redis_client.hset("celeray:parked", field, b"\xc1 rubbish")
    listed = [item["id"] for item in api.get(PATH).json()["letters"]]
    assert sorted(listed) == ["=FF=25", "a=2Fb", "tag=2317"]
    for letter in listed:
        assert api.get(f"{PATH}/{letter}", headers=operator).json()["id"] == letter
    answer = api.post(f"{PATH}/discard", json={"ids": listed, "why": "x"}, headers=operator)
    assert answer.json()["discarded"] == 3


def test_the_metric_counts_by_reason(api: TestClient, park: Any, redis_client: redis.Redis) -> None:
    assert "celeray_dead_letters{" not in api.get("/metrics").text
    for number in range(300):
        park(f"{number}", reason="poison" if number % 3 else "a new reason")
    redis_client.hset("celeray:parked", "rubbish", b"\xc1")
    page = api.get("/metrics").text
    assert 'celeray_dead_letters{reason="poison"} 200.0' in page
    assert 'celeray_dead_letters{reason="a new reason"} 100.0' in page
    assert 'celeray_dead_letters{reason="unknown"} 1.0' in page


def test_a_redrive_may_ask_for_more(
    api: TestClient, operator: dict[str, str], park: Any, redis_client: redis.Redis
) -> None:
    park("a")
    body = {"all": True, "dry_run": True, "edits": {"request": {"vram_gb": 16}}}
    dry = api.post(f"{PATH}/redrive", headers=operator, json=body).json()
    assert (dry["sent"], dry["edits"]) == (1, [{"id": "a", "before": {}, "after": {"vram_gb": 16}}])
    for request, key, bound in (
        ({"vram_gb": -3}, "vram_gb", "a number of GiB above 0"),
        ({"memory": 1}, "memory", "unknown key"),
    ):
        wrong = api.post(f"{PATH}/redrive", headers=operator, json={**body, "edits": {"request": request}})
        assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
        (error,) = wrong.json()["errors"]
        assert error["parameter"] == key
        assert bound in error["detail"]
        assert f"{key}={request[key]}" in wrong.json()["detail"]
    unknown = api.post(f"{PATH}/redrive", headers=operator, json={**body, "edits": {"body": "x"}})
    assert unknown.status_code == 422
    assert redis_client.hlen("celeray:parked") == 1
    assert api.post(f"{PATH}/redrive", headers=operator, json={**body, "dry_run": False}).json()["sent"] == 1
    sent: Any = redis_client.lrange("cpu.analysis", 0, -1)
    assert json.loads(sent[0])["headers"]["resource_requirements"] == {"vram_gb": 16}
