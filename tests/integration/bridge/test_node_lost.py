"""A node whose raylet is killed under a task: its message runs again on another node, or is parked by the table."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest
import redis
from celery.result import AsyncResult

from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.letters.record import LetterDetail
from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.status import TaskState
from celeray.scheduler.status_store import StatusStore
from tests.fake_nvml import FakeDevice
from tests.integration.conftest import AddedNode, RayTestCluster
from tests.integration.outcome_rows import BRIDGE, Site, check_nothing_left

from .live import LiveBridge, application, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.unmeasured,
    pytest.mark.timeout(400),
]
MODULE = "tests.apps.endings"
LOST_WITHIN_S = 120.0
"""Ray itself takes up to 18 s to see that a node is gone."""


class Nodes:
    """Nodes with one device each, and a bridge that runs on all of them."""

    def __init__(self, cluster: RayTestCluster, site: Site) -> None:
        self._cluster = cluster
        self._nodes: dict[str, AddedNode] = {}
        self.site = site
        self._store = StatusStore(site.client)

    def add(self) -> None:
        device = FakeDevice(f"GPU-{uuid.uuid4()}", total_mib=24 * 1024)
        node = self._cluster.add_node([device], num_cpus=2)
        self._nodes[node.node_id] = node

    def remove_all(self) -> None:
        for node in self._nodes.values():
            self._cluster.remove_node(node)

    def wait_until_leased(self) -> None:
        """The bridge has read the devices of all."""

        def read() -> set[str]:
            return {device.node_id for bridge in self._store.read_bridges() for device in bridge.devices}

        until(lambda: read() == set(self._nodes), "the bridge has all nodes", LOST_WITHIN_S)

    def runs_on(self, result: AsyncResult[object], *, other_than: str | None = None) -> str:
        """Wait until a task runs, and return the node."""

        def where() -> str | None:
            record = self._store.read_task(result.id)
            running = record is not None and record.state is TaskState.RUNNING
            return record.node_id if record is not None and running and record.node_id != other_than else None

        node_id: str = until(where, "it runs", LOST_WITHIN_S)
        return node_id

    def lose(self, node_id: str) -> None:
        """Kill its raylet, by pid; its workers end with it."""
        node = self._nodes.pop(node_id)
        os.kill(node.ray_node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._cluster.remove_node(node)

    def letter_of(self, result: AsyncResult[object]) -> LetterDetail:
        letter: LetterDetail = until(
            lambda: self.site.letter_of(result.id), f"{result.id} is parked", LOST_WITHIN_S
        )
        return letter


@pytest.fixture(scope="module")
def nodes(
    ray_cluster: RayTestCluster, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    bridge = LiveBridge(
        url,
        tmp_path_factory.mktemp("nodes"),
        "--ray-address",
        ray_cluster.address,
        module=MODULE,
        gpus=None,
        name="nodes",
        env={"CELERAY_READING_INTERVAL_S": "0.25"},
    )
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        made = Nodes(
            ray_cluster, Site(application(url, MODULE), client, "gpu.processing", BRIDGE, bridge.node)
        )
        made.add()
        made.add()
        bridge.start()
        try:
            made.wait_until_leased()
            yield made
        finally:
            bridge.stop()
            made.remove_all()


@pytest.fixture(autouse=True)
def two_nodes(nodes: Nodes) -> None:
    """Each test begins with two."""
    while len(nodes._nodes) < 2:
        nodes.add()
    nodes.wait_until_leased()


def sent(nodes: Nodes, task: str, seconds: float) -> AsyncResult[object]:
    site = nodes.site
    result: AsyncResult[object] = site.app.tasks[f"ends.{task}"].apply_async((seconds,), queue=site.queue)
    return result


def test_the_message_of_a_lost_node_runs_again_on_another(nodes: Nodes) -> None:
    result = sent(nodes, "sleeps", 8.0)
    lost = nodes.runs_on(result)
    nodes.lose(lost)

    again = nodes.runs_on(result, other_than=lost)

    assert again != lost
    assert result.get(timeout=LOST_WITHIN_S) == 8.0
    assert nodes.site.letter_of(result.id) is None
    check_nothing_left(nodes.site)


def test_one_that_is_not_requeued_is_parked_as_node_lost(nodes: Nodes) -> None:
    result = sent(nodes, "stays", 300.0)
    lost = nodes.runs_on(result)
    nodes.lose(lost)

    letter = nodes.letter_of(result)

    assert (letter.reason, letter.attempts) == (Outcome.NODE_LOST, 1), letter.detail
    assert [(one.outcome, one.node is not None) for one in letter.history] == [(Outcome.NODE_LOST, True)]
    assert until(lambda: AsyncResult(result.id, app=nodes.site.app).state == "FAILURE", "it is told")
    check_nothing_left(nodes.site)


def test_the_third_lost_run_is_parked_as_poison(nodes: Nodes) -> None:
    nodes.add()
    nodes.add()
    nodes.wait_until_leased()
    result = sent(nodes, "sleeps", 300.0)
    lost: list[str] = []
    for _ in range(3):
        lost.append(nodes.runs_on(result, other_than=lost[-1] if lost else None))
        nodes.lose(lost[-1])

    letter = nodes.letter_of(result)

    assert (letter.reason, letter.begun) == (Outcome.POISON, 3), letter.detail
    assert [one.outcome for one in letter.history] == [Outcome.NODE_LOST] * 3
    assert len(set(lost)) == 3
    check_nothing_left(nodes.site)
