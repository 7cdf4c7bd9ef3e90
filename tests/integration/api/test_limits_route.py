"""`GET /v1/limits` and `celeray get limits` show the same."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from celeray.cli import main
from celeray.scheduler.limits.declaration import declared
from celeray.scheduler.limits.gates import Call, Limit, gates
from celeray.scheduler.limits.store import LimitStore
from tests.integration.scheduler.transport.conftest import Side

pytestmark = pytest.mark.integration


def occupy(side: Side) -> None:
    """One run, and one message that waits, for the user ann."""
    limit = Limit("film.*", declared({"concurrency": 1, "rate": "5/h", "burst": 9, "key": "kwargs.user"}))
    passed = gates([limit], Call((), {"user": "ann"}, {}))
    leases = side.channel.leases
    for number in range(2):
        side.publish(number)
        lease = leases.get(side.get().delivery_tag)
        store = LimitStore(leases.client, leases.keys)
        leases.hand_over(
            lease,
            lambda lease=lease, number=number, store=store: (
                not store.acquire(lease, passed, level=5, task_id=f"task-{number}").verdict
            ),
        )


def test_limits(api: TestClient, redis_url: str) -> None:
    assert api.get("/v1/limits").json() == {"limits": [], "waiting": 0, "more": 0}
    empty = CliRunner().invoke(main, ["get", "limits", "--redis-url", redis_url])
    assert (empty.exit_code, empty.output) == (0, "no limits in use\n")
    side = Side(redis_url)
    occupy(side)
    found = api.get("/v1/limits").json()
    [limit] = found["limits"]
    [holder] = limit.pop("holders")
    assert (holder["task_id"], holder["alive"]) == ("task-0", True)
    assert limit == {
        "name": "film.*",
        "value": "ann",
        "rate": "5/h",
        "concurrency": 1,
        "waiting": 1,
        "called": 0,
        "running": 1,
        "next_in_s": None,
    }
    shown = CliRunner().invoke(main, ["get", "limits", "film.*", "--redis-url", redis_url, "-o", "json"])
    assert json.loads(shown.output)["limits"] == [{**limit, "holders": [holder]}]
    table = CliRunner().invoke(main, ["get", "limits", "--redis-url", redis_url]).output
    assert table.splitlines()[1].split()[:7] == ["film.*", "ann", "5/h", "1", "0", "1", "of"]
    assert f"task-0 on {holder['worker']} for" in table
    side.connection.close()
