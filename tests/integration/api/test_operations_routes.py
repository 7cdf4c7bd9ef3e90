"""Metrics, health and readiness, with Redis there and with Redis gone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from celeray.api.app import create_app
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.metrics import SPECS
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge

pytestmark = pytest.mark.integration


def test_metrics_are_what_prometheus_reads(
    api: TestClient, store: StatusStore, redis_client: redis.Redis
) -> None:
    redis_client.rpush("gpu.generation", "m", "m")
    store.publish(bridge(written_at=time.time()), [])
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert {family if family in SPECS else f"{family}_total" for family in families} <= set(SPECS)
    assert samples["celery_queue_length", ("queue_name", "gpu.generation")] == 2
    finished = (
        "celeray_task_finished_total",
        ("backend", "ray"),
        ("name", "film.generate_image"),
        ("outcome", "succeeded"),
        ("queue_name", "gpu.generation"),
    )
    assert samples[finished] == 2
    assert families["celeray_task_placement_seconds"].type == "histogram"


def test_openmetrics_for_who_asks(api: TestClient, store: StatusStore) -> None:
    store.publish(bridge(written_at=time.time()), [])
    answer = api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_celery_exporters_metric_can_be_left_to_it(store: StatusStore) -> None:
    app = create_app(Settings(metrics_celery_compat=False), store)
    with TestClient(app, base_url="http://127.0.0.1") as api:
        assert "celery_queue_length" not in api.get("/metrics").text


def test_ready_with_a_bridge_and_not_without(store: StatusStore) -> None:
    with TestClient(create_app(Settings(), store), base_url="http://127.0.0.1") as api:
        assert api.get("/healthz").json() == {"status": "alive"}
        answer = api.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["no bridge is up"])
    store.publish(bridge(written_at=time.time()), [])
    with TestClient(create_app(Settings(), store), base_url="http://127.0.0.1") as api:
        assert (api.get("/readyz").status_code, api.get("/readyz").json()) == (200, {"status": "ready"})


def test_with_redis_gone_every_route_says_so(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        client = redis.Redis.from_url(server.url)
    app = create_app(Settings(), StatusStore(client))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as api:
        assert api.get("/healthz").status_code == 200
        assert api.get("/readyz").json()["reasons"] == ["Redis does not answer"]
        for path in ("/v1/status", "/v1/queues", "/v1/tasks", "/v1/tasks/t1", "/metrics"):
            answer = api.get(path)
            assert answer.status_code == 503, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "2"
            assert str(server.port) not in answer.text
