"""Why tasks wait, and dry runs, over what bridges published to a real Redis."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from celery import states
from fastapi.testclient import TestClient

from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.capacity import CapacityWriter, ClusterCapacity, DeviceCapacity, NodeCapacity
from celeray.scheduler.explanations.published import PublishedCycles
from celeray.scheduler.model import ResourceRequest, Snapshot, WarmExecutor
from celeray.scheduler.pausing import Pauses
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore
from tests.cycle_samples import GIB, device, fill, node, published, running, waiting
from tests.integration.api.test_task_routes import celery_app
from tests.integration.cli.test_letter_states import leave
from tests.status_samples import record

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Call to deprecated setex")]


def explained(api: TestClient, task_id: str) -> dict[str, Any]:
    answer = api.get(f"/v1/tasks/{task_id}/explain")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def asked(api: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = api.post("/v1/explain", json=body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["tasks"]
    return found


def test_a_waiting_task_says_why_who_is_in_the_way_and_when(api: TestClient, store: StatusStore) -> None:
    fill(store)
    found = explained(api, "big")
    why = found["waiting"]
    assert (found["state"], why["reason"], why["bridge"]) == ("waiting", "exclusive", "gpu-b1@host")
    assert (why["ahead"], why["ahead_is_least"]) == (0, False)
    assert found["words"] == why["words"]
    assert "kept for it on node-a" in found["words"]
    assert "in about 9 s" in found["words"]
    start = why["start"]
    assert (start["starts_in_s"], start["known"], start["why"]) == (9.0, True, None)
    assert (start["node_name"], start["device_uuids"], start["executor_id"]) == ("node-a", ["a0", "a1"], None)
    assert why["reservation"] == {
        "task_id": "big",
        "own": True,
        "node_name": "node-a",
        "device_uuids": ["a0", "a1"],
        "starts_in_s": 9.0,
    }
    first, second = why["nodes"]
    assert [(one["reason"], one["reserved_for"]) for one in first["devices"]] == [
        ("exclusive", "big"),
        ("vram", "big"),
    ]
    holder = first["devices"][0]["held_by"][0]
    assert (holder["tasks"], holder["ends_in_s"], holder["memory_mib"]) == (["run-1"], 5.0, 24 * GIB)
    assert (second["reason"], second["could_ever"], second["words"]) == (
        "devices",
        False,
        "It has fewer devices than are asked for on one node.",
    )


def test_one_behind_it_and_a_reservation_for_another(api: TestClient, store: StatusStore) -> None:
    fill(store)
    why = explained(api, "next")["waiting"]
    assert (why["ahead"], why["reservation"]["own"], why["reservation"]["task_id"]) == (1, False, "big")
    assert (why["start"]["starts_in_s"], why["start"]["known"]) == (69.0, True)


def test_a_task_that_its_bridge_has_not_published_yet(api: TestClient, store: StatusStore) -> None:
    fill(store)
    why = explained(api, "late")["waiting"]
    assert (why["start"], why["reason"]) == (None, None)
    assert "has not published it yet" in why["words"]
    assert [one["reason"] for one in why["nodes"]] == ["exclusive", "devices"]


def test_a_task_whose_executor_starts_and_one_behind_the_first_thousand(
    api: TestClient, store: StatusStore
) -> None:
    fill(store)
    tasks = [waiting(f"w{n}", n, ResourceRequest(gpus=1, exclusive=True)) for n in range(1, 1_010)]
    PublishedCycles(store.client, store.keys).write(published(*reversed(tasks)), 60_000)
    held = {"state": "waiting", "received_at": time.time(), "started_at": None, "ended_at": None}
    store.publish(running(), [record(name, **held).stored() for name in ("run-2", "w1005")])
    starting = explained(api, "run-2")["waiting"]
    assert (starting["reason"], starting["start"]["starts_in_s"]) == ("starting", 0.0)
    far = explained(api, "w1005")["waiting"]
    assert (far["ahead"], far["ahead_is_least"], far["start"]["why"]) == (1_000, True, "bound_reached")
    (behind,) = asked(api, resource_requirements={"gpu": 1, "gpu_type": "A100"}, priority=10)
    assert (behind["verdict"], behind["start"]["starts_in_s"], behind["start"]["why"]) == (
        "wait",
        None,
        "bound_reached",
    ), "what is not published may come first"


def test_without_a_published_cycle_it_says_so(api: TestClient, store: StatusStore) -> None:
    fill(store)
    found = explained(api, "elsewhere")
    assert (found["state"], found["waiting"]) == ("waiting", None)
    assert "published no placement cycle lately" in found["words"]
    for bridge_id in ("b1", "b2"):
        store.retire(bridge_id)
    time.sleep(0.3)  # the API's picture of the moment before
    answer = api.post("/v1/explain", json={"resource_requirements": {"gpu": 1}})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "no bridge has published a placement cycle" in answer.json()["detail"]


def test_running_ended_and_unknown(
    api: TestClient, store: StatusStore, redis_client: redis.Redis, redis_url: str
) -> None:
    fill(store)
    ran = explained(api, "run-1")
    assert (ran["state"], ran["waiting"], ran["run"]["node_name"]) == ("running", None, "node-1")
    assert ran["words"].startswith("It runs on node-1, on GPU-a, for 1 min")
    assert explained(api, "done")["words"] == "It ended as succeeded."
    celery_app(redis_url).backend.store_result("cpu-1", 1, states.SUCCESS)
    assert explained(api, "cpu-1")["words"] == "It ended as succeeded on a Celery worker."
    leave(redis_client, "parked", None)
    lettered = explained(api, "id-parked")
    assert (lettered["state"], lettered["letters"][0]["state"]) == (None, "parked")
    assert lettered["letters"][0]["path"] == "/v1/dead-letters/parked"
    unknown = api.get("/v1/tasks/nobody/explain")
    assert (unknown.status_code, "nobody" in unknown.json()["detail"]) == (404, True)


@pytest.fixture
def two_bridges(store: StatusStore) -> None:
    """As `fill`, and a second bridge with an idle card of 80 GiB."""
    fill(store)
    second = Snapshot((node("c", device("c0", 80, 80)),))
    PublishedCycles(store.client, store.keys).write(published(bridge_id="b2", snapshot=second), 60_000)


@pytest.mark.usefixtures("two_bridges")
def test_the_bridge_that_does_best_answers(api: TestClient) -> None:
    (large,) = asked(api, resource_requirements={"vram_gb": 40})
    assert (large["verdict"], large["bridge"], large["queue"]) == ("start", "gpu-b2@host", "gpu.generation")
    assert (large["start"]["starts_in_s"], large["start"]["node_name"]) == (0.0, "node-c")
    assert [one["name"] for one in large["nodes"]] == ["node-c"]
    (small,) = asked(api, resource_requirements={"vram_gb": 8, "gpu_type": "T4"}, priority=3)
    assert (small["verdict"], small["bridge"], small["queue"], small["priority"]) == (
        "start",
        "gpu-b1@host",
        "gpu.processing",
        3,
    )
    (pair,) = asked(api, resource_requirements={"gpu": 2, "vram_gb": 20}, priority=9)
    assert (pair["verdict"], pair["reason"], pair["bridge"]) == ("wait", "exclusive", "gpu-b1@host")
    assert pair["start"]["starts_in_s"] == 9.0
    (cpu,) = asked(api, task="film.analyze_scene")
    assert (cpu["verdict"], cpu["queue"], cpu["nodes"]) == ("worker", "cpu.analysis", [])


def test_a_batch_is_asked_about_together(api: TestClient, store: StatusStore) -> None:
    store.publish(running(), [])
    idle = Snapshot((node("a", device("a0", 24, 24)),))
    PublishedCycles(store.client, store.keys).write(published(snapshot=idle), 60_000)
    one = {"resource_requirements": {"vram_gb": 10, "expected_s": 4}}
    never = {"resource_requirements": {"vram_gb": 25}}
    found = asked(api, tasks=[one, one, one, never])
    assert [item["verdict"] for item in found] == ["start", "start", "wait", "never"]
    assert [item["start"] and item["start"]["starts_in_s"] for item in found] == [0.0, 0.0, 4.0, None]
    assert found[2]["reason"] == "vram"
    assert found[3]["refusal"] == {"key": "vram_gb", "value": 25, "bound": "the largest device has 24 GiB"}
    assert all(item["nodes"] == [] for item in found)
    many = asked(api, tasks=[{"resource_requirements": {"vram_gb": 10}}] * 1_000)
    assert [item["verdict"] for item in many[:3]] == ["start", "start", "wait"]
    assert {item["start"]["why"] for item in many[4:]} == {"unknown_run_times"}


def test_what_never_fits_is_named_as_at_publish(api: TestClient, store: StatusStore) -> None:
    fill(store)
    nodes = (NodeCapacity(8_000, 64 * GIB, {}, (DeviceCapacity("A100", 30 * GIB),)),)
    CapacityWriter(store.client, "b1").write(ClusterCapacity(nodes))
    (never,) = asked(api, resource_requirements={"vram_gb": 31})
    assert (never["verdict"], never["reason"], never["bridge"]) == ("never", "never_fits", None)
    assert never["refusal"] == {"key": "vram_gb", "value": 31, "bound": "the largest device has 30 GiB"}
    assert "vram_gb=31" in never["words"]
    assert len(never["nodes"]) == 2, "why each node can't hold it"
    CapacityWriter(store.client, "b1").write(ClusterCapacity(nodes, may_grow=True))
    (grows,) = asked(api, resource_requirements={"vram_gb": 31})
    assert (grows["verdict"], grows["reason"], grows["start"]["why"]) == ("wait", "never_fits", "never_fits")


def test_a_warm_executor_by_the_name_of_the_task(api: TestClient, store: StatusStore) -> None:
    store.publish(running(), [])
    request = ResourceRequest(gpus=1, memory_mib=20 * GIB)
    idle = WarmExecutor("e9", executor_class("film.x", request), "a", ("a0",), 20 * GIB, False, True, 0.0)
    snapshot = Snapshot((node("a", device("a0", 24, 4, holders=1)),), (idle,))
    PublishedCycles(store.client, store.keys).write(published(snapshot=snapshot), 60_000)
    (mine,) = asked(api, task="film.x", resource_requirements={"vram_gb": 20})
    assert (mine["verdict"], mine["start"]["executor_id"]) == ("start", "e9")
    (other,) = asked(api, task="film.y", resource_requirements={"vram_gb": 20})
    assert (other["verdict"], other["reason"], other["start"]["executor_id"]) == ("wait", "reclaiming", None)


def test_the_queue_counts(
    api: TestClient, store: StatusStore, settings: Settings, redis_client: redis.Redis
) -> None:
    fill(store)
    lists = store.keys.queue_lists("gpu.processing")
    redis_client.rpush(lists[0], "m10")
    redis_client.rpush(lists[5], "m5", "m5")
    redis_client.rpush(lists[8], "m2")
    small = {"vram_gb": 8, "gpu_type": "T4"}
    assert asked(api, resource_requirements=small)[0]["on_broker"] == 3
    assert asked(api, resource_requirements=small, priority=10)[0]["on_broker"] == 1
    Pauses(store, settings).pause("gpu.processing", by="me", why="driver", now=1.0)
    (paused,) = asked(api, resource_requirements=small)
    assert (paused["verdict"], paused["paused"]["why"]) == ("wait", "driver")
    assert paused["words"].startswith("Its queue is paused")


@pytest.mark.parametrize(
    ("body", "parameter", "said"),
    [
        ({"resource_requirements": {"vram_gb": -1}}, "vram_gb", "vram_gb=-1"),
        ({"resource_requirements": {"vram": 1}}, "vram", "unknown key"),
        ({"tasks": [{}, {"resource_requirements": {"gpu": "two"}}]}, "tasks.1.gpu", "from 0 to 1024"),
        ({"priority": 11}, "priority", "priority=11"),
        ({"tasks": [], "queue": None}, "tasks", "1 to 1000"),
        ({"tasks": [{}] * 1_001}, "tasks", "1001 requests"),
        ({"tasks": [{}], "queue": "gpu.x"}, "queue", "nothing beside tasks"),
        ({"tasks": [{"kwargs": {}}]}, "tasks.0.kwargs", "Extra inputs"),
        ({"resource_requirements": [1]}, "resource_requirements", "dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_requests_are_problems_that_name_key_value_and_bound(
    api: TestClient, store: StatusStore, body: dict[str, Any], parameter: str, said: str
) -> None:
    fill(store)
    answer = api.post("/v1/explain", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [item["parameter"] for item in answer.json()["errors"]] == [parameter]
    assert said in answer.json()["detail"]


def test_only_this_body_may_be_large(api: TestClient, store: StatusStore) -> None:
    fill(store)
    padding = {"tasks": [{"task": "x" * 200}] * 900}
    assert len(json.dumps(padding)) > 190_000
    assert api.post("/v1/explain", json=padding).status_code == 200
    over = {"tasks": [{"task": "x" * 300}] * 900}
    refused = api.post("/v1/explain", json=over)
    assert (refused.status_code, "262144 bytes" in refused.json()["detail"]) == (413, True)


def test_the_document_of_another_version_is_a_problem(api: TestClient, store: StatusStore) -> None:
    fill(store)
    store.client.set(store.keys.bridge_cycle("b1"), b'{"bridge_id": "b1"}')
    assert api.get("/v1/tasks/big/explain").status_code == 503
