"""Draining by REST: what is kept, shown, refused and written to the trail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.api.tokens import Role
from celeray.scheduler.model import Health
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, device, node

pytestmark = pytest.mark.integration
MakeToken = Callable[..., dict[str, str]]
MARKED_AT = 1_700_000_000.25


@pytest.fixture
def operator(make_token: MakeToken) -> dict[str, str]:
    return make_token(Role.OPERATOR)


@pytest.fixture(autouse=True)
def seen(store: StatusStore) -> None:
    """One node with two devices; an XID keeps the second out."""
    bad = device(
        "GPU-b",
        index=1,
        health=Health.UNHEALTHY,
        health_reason="XID 79: the GPU has fallen off the bus",
        unusable="XID 79: the GPU has fallen off the bus",
        remedy="reset the GPU",
        marked_at=MARKED_AT,
        leaking_mib=512,
        leaking_pids=(7,),
    )
    status = bridge(written_at=time.time(), devices=(device("GPU-a"), bad), nodes=(node(),), queues=())
    store.publish(status, [])


def shown(api: TestClient, uuid: str) -> dict[str, Any]:
    return next(item for item in api.get("/v1/devices").json()["devices"] if item["uuid"] == uuid)


def test_drain_and_undrain_a_device(api: TestClient, operator: dict[str, str], make_token: MakeToken) -> None:
    assert shown(api, "GPU-a")["drained"] is None
    change = api.post("/v1/devices/GPU-a/drain", json={"why": "fan"}, headers=operator).json()
    drained = change.pop("drained")
    assert change == {"kind": "device", "name": "GPU-a", "forgiven": [], "changed": True}
    assert drained["why"] == "fan"
    assert drained["by"].startswith("token:")
    assert shown(api, "GPU-a")["drained"] == drained
    assert api.get("/v1/status").json()["drained"] == {"device GPU-a": drained}
    assert 'celeray_gpu_in_service{gpu="0",node="node-1",uuid="GPU-a"} 0.0' in api.get("/metrics").text
    back = api.post("/v1/devices/GPU-a/undrain", headers=operator).json()
    assert (back["drained"], back["changed"]) == (None, True)
    assert shown(api, "GPU-a")["drained"] is None
    assert api.post("/v1/devices/GPU-a/undrain", headers=operator).json()["changed"] is False
    records = api.get("/v1/audit", headers=make_token(Role.ADMIN)).json()["records"]
    assert [(item["action"], item["target"], item["why"]) for item in records] == [
        ("undrain", "device GPU-a", "undrained"),
        ("drain", "device GPU-a", "fan"),
    ]


def test_drain_and_undrain_a_node(api: TestClient, operator: dict[str, str]) -> None:
    change = api.post("/v1/nodes/node-1/drain", headers=operator).json()
    assert change["drained"]["why"] == "drained"
    (found,) = api.get("/v1/nodes").json()["nodes"]
    assert found["drained"] == change["drained"]
    back = api.post("/v1/nodes/node-1/undrain", json={"why": "done"}, headers=operator).json()
    assert back["forgiven"] == ["GPU-b"]
    assert api.get("/v1/nodes").json()["nodes"][0]["drained"] is None


def test_what_keeps_a_device_out_is_seen_and_forgiven(api: TestClient, operator: dict[str, str]) -> None:
    bad = shown(api, "GPU-b")
    assert (bad["unusable"], bad["remedy"], bad["marked_at"], bad["leaking_pids"]) == (
        "XID 79: the GPU has fallen off the bus",
        "reset the GPU",
        MARKED_AT,
        [7],
    )
    problems = " | ".join(api.get("/v1/status").json()["problems"])
    assert "fallen off the bus; back by: reset the GPU" in problems
    assert "512 MiB of ended executors did not come back (pids 7)" in problems
    change = api.post("/v1/devices/GPU-b/undrain", headers=operator).json()
    assert (change["forgiven"], change["changed"]) == (["GPU-b"], True)


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_what_nobody_sees_is_404_and_names_what_there_is(
    api: TestClient, operator: dict[str, str], verb: str
) -> None:
    answer = api.post(f"/v1/devices/GPU-z/{verb}", headers=operator)
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        "no device 'GPU-z'; there are GPU-a, GPU-b",
    )
    answer = api.post(f"/v1/nodes/node-9/{verb}", headers=operator)
    assert (answer.status_code, answer.json()["detail"]) == (404, "no node 'node-9'; there are node-1")


@pytest.mark.parametrize(
    ("body", "parameter"),
    [({"why": ""}, "why"), ({"why": "a\nb"}, "why"), ({"why": 7}, "why"), ({"reason": "x"}, "reason")],
)
def test_bad_bodies_name_the_field(
    api: TestClient, operator: dict[str, str], body: Any, parameter: str, redis_client: redis.Redis
) -> None:
    for path in ("/v1/devices/GPU-a/drain", "/v1/nodes/node-1/undrain"):
        answer = api.post(path, json=body, headers=operator)
        assert answer.status_code == 422
        assert [item["parameter"] for item in answer.json()["errors"]] == [parameter]
    assert not redis_client.exists("celeray:drained", "celeray:audit")
