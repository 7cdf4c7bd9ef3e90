"""Tasks: what bridges wrote, joined with what the result backend keeps; never the result itself."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from celery import Celery, states
from fastapi.testclient import TestClient

from celeray.scheduler.status import TaskState
from celeray.scheduler.status_store import StatusStore
from tests.status_samples import bridge, record

# Celery 5.7 stores results with a call that redis-py 8 calls deprecated.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Call to deprecated setex")]


def celery_app(url: str, serializer: str = "json", **conf: Any) -> Celery:
    app = Celery("results", backend=url, set_as_current=False)
    app.conf.update(
        result_serializer=serializer,
        result_accept_content=["json", "msgpack"],
        accept_content=["json"],
        **conf,
    )
    return app


def test_a_task_that_ran_in_a_bridge(api: TestClient, store: StatusStore) -> None:
    store.publish(bridge(), [record().stored()])
    found = api.get("/v1/tasks/t1").json()
    assert (found["task_id"], found["state"], found["result"]) == ("t1", "succeeded", None)
    assert found["run"]["device_uuids"] == ["GPU-a"]
    assert found["run"]["warm"] is True


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_task_that_ran_on_a_celery_worker(api: TestClient, redis_url: str, serializer: str) -> None:
    backend = celery_app(redis_url, serializer).backend
    backend.store_result("cpu-1", {"secret": "of the user"}, states.SUCCESS)
    answer = api.get("/v1/tasks/cpu-1")
    found = answer.json()
    assert (found["state"], found["run"], found["result"]["status"]) == ("succeeded", None, "SUCCESS")
    assert "secret" not in answer.text


def test_a_failure_shows_the_class_of_its_exception_and_no_more(api: TestClient, redis_url: str) -> None:
    backend = celery_app(redis_url).backend
    try:
        raise ValueError("a secret")
    except ValueError as error:
        backend.store_result("cpu-2", error, states.FAILURE, traceback="Traceback: a secret")
    answer = api.get("/v1/tasks/cpu-2")
    assert (answer.json()["state"], answer.json()["result"]["exception"]) == ("failed", "ValueError")
    assert "secret" not in answer.text


def test_a_compressed_result_is_read(api: TestClient, redis_url: str) -> None:
    backend = celery_app(redis_url, result_compression="gzip").backend
    backend.store_result("cpu-3", "x" * 100_000, states.SUCCESS)
    assert api.get("/v1/tasks/cpu-3").json()["state"] == "succeeded"


def test_a_stored_result_that_is_neither_json_nor_msgpack_is_no_answer(
    api: TestClient, redis_client: redis.Redis
) -> None:
    redis_client.set("celery-task-meta-odd", b"\x80\x04K\x01.")
    assert api.get("/v1/tasks/odd").status_code == 404


def test_where_run_and_result_differ(api: TestClient, store: StatusStore, redis_url: str) -> None:
    """A run that is open in the record but has a stored end did end; a retry that runs again is running."""
    backend = celery_app(redis_url).backend
    store.publish(
        bridge(),
        [
            record("ended", ended_at=None, state=TaskState.RUNNING).stored(),
            record("again", ended_at=None, state=TaskState.RUNNING).stored(),
            record("done").stored(),
        ],
    )
    backend.store_result("ended", None, states.SUCCESS)
    backend.store_result("again", None, states.STARTED)
    backend.store_result("done", None, "LOADING")
    found = {name: api.get(f"/v1/tasks/{name}").json()["state"] for name in ("ended", "again", "done")}
    assert found == {"ended": "succeeded", "again": "running", "done": "succeeded"}


def test_an_open_run_of_a_bridge_that_is_gone_is_lost(api: TestClient, store: StatusStore) -> None:
    store.publish(bridge("b1"), [record(ended_at=None, state=TaskState.RUNNING).stored()])
    store.retire("b1")
    run = api.get("/v1/tasks/t1").json()["run"]
    assert (run["state"], run["reason"]) == ("lost", "bridge_gone")
    assert api.get("/v1/tasks").json()["tasks"][0]["state"] == "lost"


def test_an_unknown_task(api: TestClient) -> None:
    answer = api.get("/v1/tasks/nobody")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "nobody" in answer.json()["detail"]


def test_pages_and_filters(api: TestClient, store: StatusStore) -> None:
    now = time.time()
    records = [
        record(
            f"t{number}", ended_at=now - number, state=TaskState.FAILED if number % 2 else TaskState.SUCCEEDED
        )
        for number in range(5)
    ]
    store.publish(bridge(written_at=now), [item.stored() for item in records])
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = api.get("/v1/tasks", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [task["task_id"] for task in page["tasks"]]
        cursor = page["next"]
    assert seen == ["t0", "t1", "t2", "t3", "t4"]
    failed = api.get("/v1/tasks", params={"state": "failed", "queue": "gpu.generation"}).json()
    assert [task["task_id"] for task in failed["tasks"]] == ["t1", "t3"]
    assert api.get("/v1/tasks", params={"queue": "io.storage"}).json() == {"tasks": [], "next": None}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"state": "sleeping"}, "state"),
        ({"cursor": "nowhere"}, "cursor"),
        ({"cursor": "soon:t1"}, "cursor"),
        ({"queue": "q" * 201}, "queue"),
    ],
)
def test_bad_parameters_are_problems_that_name_them(
    api: TestClient, query: dict[str, Any], parameter: str
) -> None:
    answer = api.get("/v1/tasks", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [item["parameter"] for item in answer.json()["errors"]] == [parameter]
