"""Status, queues, devices and nodes as bridges wrote them."""

from __future__ import annotations

import time

import pytest
import redis
from fastapi.testclient import TestClient

from celeray.scheduler.model import Health
from celeray.scheduler.status import ClusterStatus, QueueStatus
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, device, node

pytestmark = pytest.mark.integration


def test_status_of_a_good_cluster(api: TestClient, store: StatusStore, redis_client: redis.Redis) -> None:
    redis_client.rpush("cpu.analysis", "m")
    redis_client.rpush("dlq", "m", "m")
    redis_client.hset("unacked", "tag", "m")
    store.publish(bridge(written_at=time.time(), queues=()), [])
    answer = api.get("/v1/status")
    assert answer.status_code == 200
    found = ClusterStatus.model_validate(answer.json())
    assert (found.state, found.problems, found.ray_connected, found.redis_ok) == ("ok", (), True, True)
    assert (found.queued, found.dead_letters, found.unacked, found.waiting, found.running) == (1, 2, 1, 3, 1)
    assert (found.devices, found.devices_healthy, found.nodes, found.executors) == (1, 1, 1, 1)
    assert (found.vram_total_mib, found.vram_schedulable_mib) == (81920, 68608)
    assert [item.hostname for item in found.bridges] == ["gpu-b1@host"]


def test_status_says_what_is_wrong(api: TestClient, store: StatusStore) -> None:
    now = time.time()
    sick = device("GPU-b", index=1, health=Health.UNHEALTHY, health_reason="xid 79")
    store.publish(
        bridge(
            written_at=now,
            cluster_up=False,
            cluster_detail="connection refused",
            devices=(device(), sick),
            nodes=(node(reading_age_s=40.0),),
        ),
        [],
    )
    found = api.get("/v1/status").json()
    assert found["state"] == "degraded"
    text = " | ".join(found["problems"])
    for part in ("connection refused", "xid 79", "last reading is 40 s old", "more than any device has"):
        assert part in text
    assert found["devices_healthy"] == 1


def test_status_without_any_bridge(api: TestClient) -> None:
    found = api.get("/v1/status").json()
    assert found["state"] == "degraded"
    assert "no bridge is up" in found["problems"][0]


def test_queues_join_what_lies_on_the_broker_and_what_bridges_hold(
    api: TestClient, store: StatusStore, redis_client: redis.Redis
) -> None:
    redis_client.rpush("gpu.generation", "m", "m")
    redis_client.rpush("gpu.generation\x06\x165", "m")
    now = time.time()
    first = bridge("b1", written_at=now)
    part = first.queues[0].model_copy(update={"oldest_received_at": now - 30})
    store.publish(bridge("b1", written_at=now, queues=(part,)), [])
    store.publish(bridge("b2", written_at=now, queues=(part.model_copy(update={"name": "own.queue"}),)), [])
    queues = {item["name"]: item for item in api.get("/v1/queues").json()["queues"]}
    assert list(queues)[-1] == "own.queue"
    assert {name: queue["kind"] for name, queue in queues.items()} == {
        "gpu.generation": "gpu",
        "gpu.processing": "gpu",
        "cpu.analysis": "cpu",
        "cpu.thumbnail": "cpu",
        "io.storage": "io",
        "priority": "priority",
        "dlq": "dlq",
        "own.queue": "other",
    }
    one = QueueStatus.model_validate(api.get("/v1/queues/gpu.generation").json())
    assert (one.depth, one.depth_by_priority) == (3, {10: 2, 5: 1})
    assert (one.waiting, one.running, one.reasons) == (3, 1, {"vram": 2, "never_fits": 1})
    assert one.oldest_age_s is not None
    assert 30 <= one.oldest_age_s < 60


def test_an_unknown_queue_is_a_problem_that_names_the_known_ones(api: TestClient) -> None:
    answer = api.get("/v1/queues/gpu.nothing")
    assert answer.status_code == 404
    assert "gpu.generation" in answer.json()["detail"]


def test_devices_and_nodes_of_all_bridges_once_each(api: TestClient, store: StatusStore) -> None:
    now = time.time()
    store.publish(bridge("b1", written_at=now - 2, nodes=(node(reading_age_s=1.0),)), [])
    later = device("GPU-a", reserved_mib=1)
    two = (later, device("GPU-b", index=1))
    nodes = (node("n2", reading_age_s=None), node("n1", reading_age_s=0.5))
    store.publish(bridge("b2", written_at=now, devices=two, nodes=nodes), [])
    devices = api.get("/v1/devices").json()["devices"]
    assert [(item["uuid"], item["reserved_mib"]) for item in devices] == [("GPU-a", 1), ("GPU-b", 12288)]
    found = api.get("/v1/nodes").json()["nodes"]
    assert [(item["node_id"], item["reading_age_s"] is None) for item in found] == [
        ("n1", False),
        ("n2", True),
    ]
    assert 0.5 <= found[0]["reading_age_s"] < 10


def test_many_requests_in_a_moment_read_redis_once(
    api: TestClient, store: StatusStore, redis_client: redis.Redis
) -> None:
    def calls() -> int:
        return int(redis_client.info("commandstats").get("cmdstat_hlen", {"calls": 0})["calls"])

    store.publish(bridge(written_at=time.time()), [])
    time.sleep(0.3)
    before = calls()
    api.get("/v1/status")
    of_one_read, before = calls() - before, calls()
    assert of_one_read
    began = time.monotonic()
    for _ in range(20):
        api.get("/v1/status")
    reads = (calls() - before) / of_one_read
    assert reads <= (time.monotonic() - began) / 0.25 + 1
