"""Devices that are lost, leak, fail or are drained: a real bridge and node agent over a fake NVML, seen in REST."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from fastapi.testclient import TestClient

from celeray.api.app import create_app
from celeray.scheduler.draining import Drains, Subject, SubjectKind
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.keys import Keys
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.suspensions import Drain
from tests.fake_nvml import FakeDevice, FakeNvml
from tests.integration.conftest import RayTestCluster

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
GIB = 1024
A, B = "GPU-aaaaaaaa-0000-0000-0000-00000000000a", "GPU-bbbbbbbb-0000-0000-0000-00000000000b"
NODE = "gpu-one"
BY = "ops@h"


class Site:
    """One node with two devices, a bridge on it, and the API."""

    def __init__(self, bridge: LiveBridge, fake: FakeNvml, client: redis.Redis) -> None:
        self.bridge = bridge
        self.fake = fake
        self.client = client
        store = StatusStore(client)
        self.api = TestClient(create_app(Settings(), store), base_url="http://127.0.0.1")
        self.drains = Drains(store)
        self.before: dict[str, Any] = {}
        """What was seen while the node was drained, as it was before the bridge started."""

    def see_what_was_drained_before(self) -> None:
        """Note how the bridge stands by it, then undrain the node."""
        waiting = self.send("here")
        device = self.shows(A, "its node is drained", unusable=f"its node is drained by {BY}: kernel")
        until(lambda: '"unusable":1' in self.api.get("/v1/queues").text, "the task waits")
        (node,) = (item for item in self.api.get("/v1/nodes").json()["nodes"] if item["name"] == NODE)
        self.before = {"device": device, "node": node, "ready": waiting.ready()}
        self.drains.undrain(Subject(SubjectKind.NODE, NODE), by=BY, now=time.time())
        self.before["ran_on"] = waiting.get(timeout=60)
        for uuid in (A, B):
            self.clean(uuid)

    @property
    def app(self) -> Celery:
        return application(self.bridge.url, "tests.apps.health")

    def send(self, name: str, *args: Any) -> AsyncResult[Any]:
        result: AsyncResult[Any] = self.app.tasks[f"health.{name}"].apply_async(args)
        return result

    def device(self, uuid: str) -> dict[str, Any]:
        """As REST shows it."""
        return next(
            (item for item in self.api.get("/v1/devices").json()["devices"] if item["uuid"] == uuid), {}
        )

    def shows(self, uuid: str, what: str, **values: Any) -> dict[str, Any]:
        """Wait until REST shows these values of a device."""
        last: dict[str, Any] = {}

        def found() -> bool:
            last.update(self.device(uuid))
            return bool(last) and all(last[key] == value for key, value in values.items())

        try:
            until(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {last}; log: {self.bridge.tail()}") from error
        return last

    def runs(self, result: AsyncResult[Any]) -> list[str]:
        """The devices of a task's runs so far, in order."""
        return [device.decode() for device in self.client.lrange(f"runs:{result.id}", 0, -1)]

    def begun(self, result: AsyncResult[Any], runs: int = 1) -> str:
        """Wait until so many runs of a task have begun; the device of the last one."""
        until(lambda: len(self.runs(result)) == runs, f"run {runs} has begun; log: {self.bridge.tail()}")
        return self.runs(result)[-1]

    def let_go(self, result: AsyncResult[Any]) -> dict[str, Any]:
        """Let a task end, and return what it returned."""
        self.client.set(f"go:{result.id}", 1)
        found: dict[str, Any] = result.get(timeout=60)
        return found

    def tell(self, uuid: str, xid: int) -> dict[str, Any]:
        """Have the driver tell of an error, until REST shows it: what comes before an agent listens is not told."""

        def shown() -> Any:
            self.fake.change(uuid, xid=xid)
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                if str(xid) in self.device(uuid).get("xids", {}):
                    return self.device(uuid)
                time.sleep(0.05)
            return None

        found: dict[str, Any] = until(shown, f"XID {xid} is seen")
        return found

    def drain(self, uuid: str) -> None:
        self.drains.drain(Subject(SubjectKind.DEVICE, uuid), by=BY, why="test", now=time.time())

    def undrain(self, uuid: str) -> tuple[str, ...]:
        change = self.drains.undrain(Subject(SubjectKind.DEVICE, uuid), by=BY, now=time.time())
        return change.forgiven

    def clean(self, uuid: str) -> None:
        """Wait until a device is in use and as if nothing had been."""
        self.shows(uuid, f"{uuid} is clean", unusable=None, drained=None, leaking_mib=0, foreign_mib=0)


@pytest.fixture(scope="module")
def site(
    ray_cluster: RayTestCluster, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    url = f"redis://127.0.0.1:{redis_server.port}/9"
    devices = [FakeDevice(uuid, total_mib=24 * GIB) for uuid in (A, B)]
    node = ray_cluster.add_node(devices, num_cpus=8, node_name=NODE)
    assert node.nvml is not None
    bridge = LiveBridge(
        url,
        tmp_path_factory.mktemp("health"),
        "--ray-address",
        ray_cluster.address,
        module="tests.apps.health",
        gpus=None,
        name="health",
        env={
            "CELERAY_READING_INTERVAL_S": "0.25",
            "CELERAY_LEAK_AFTER_S": "1",
            "CELERAY_CANARY_INTERVAL_S": "0.5",
        },
    )
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        made = Site(bridge, node.nvml, client)
        drain = Drain(by=BY, at=1.0, why="kernel")
        client.hset(Keys().drained(), Subject(SubjectKind.NODE, NODE).field, drain.model_dump_json())
        bridge.start()
        try:
            made.see_what_was_drained_before()
            yield made
        finally:
            bridge.stop()
            ray_cluster.remove_node(node)


def other(uuid: str) -> str:
    return B if uuid == A else A


@pytest.mark.slow
def test_a_bridge_honours_what_was_drained_before_it_started(site: Site) -> None:
    seen = site.before
    assert (seen["node"]["draining"], seen["node"]["drained"]["why"]) == (True, "kernel")
    assert (seen["device"]["health"], seen["device"]["executors"]) == ("healthy", [])
    assert not seen["ready"], "it waited as long as the node was drained"
    assert seen["ran_on"] in (A, B)


def test_a_run_on_a_device_that_is_lost_in_the_middle_runs_again_elsewhere_once(site: Site) -> None:
    result = site.send("stay", 4 * GIB)
    first = site.begun(result)
    site.fake.change(first, lost=1)
    assert site.begun(result, 2) == other(first)
    shown = site.shows(first, "the device is lost", lost=True, health="unhealthy")
    assert shown["unusable"].startswith("lost: ")
    assert shown["schedulable_mib"] == 0
    problems = site.api.get("/v1/status").json()["problems"]
    assert any(first in problem for problem in problems)
    assert site.send("here").get(timeout=60) == other(first)
    assert site.let_go(result)["device"] == other(first)
    assert site.runs(result) == [first, other(first)]
    site.fake.change(first, lost=0)
    site.clean(first)


@pytest.mark.parametrize(("keeps_dead", "named"), [(2, False), pytest.param(1, True, marks=pytest.mark.slow)])
def test_a_leak_that_never_comes_back_is_named_and_the_rest_stays_in_use(
    site: Site, keeps_dead: int, named: bool
) -> None:
    said = f"device {A} is leaking"
    before = site.bridge.log.read_text().count(said)
    site.drain(B)
    site.shows(B, "the other device is drained", unusable="drained by ops@h: test")
    site.fake.change(A, keeps_dead=keeps_dead)
    result = site.send("once", 6 * GIB)
    assert site.begun(result) == A
    site.shows(A, "its memory is seen", used_mib=6 * GIB, foreign_mib=0)
    pid = site.let_go(result)["pid"]
    shown = site.shows(A, "it leaks", leaking_mib=6 * GIB)
    assert shown["leaking_pids"] == ([pid] if named else [])
    assert shown["unusable"] is None
    assert shown["foreign_mib"] == 6 * GIB
    assert shown["schedulable_mib"] + shown["reserved_mib"] == 18 * GIB
    assert site.send("here").get(timeout=60) == A, "the rest of the device stays in use"
    whole = site.send("whole")
    until(lambda: "exclusive" in site.api.get("/v1/queues").text, "a whole device is not there")
    metrics = site.api.get("/metrics").text
    assert f'celeray_gpu_leaking_bytes{{gpu="0",node="{NODE}",uuid="{A}"}} 6.442450944e+09' in metrics
    assert any("6144 MiB" in problem for problem in site.api.get("/v1/status").json()["problems"])
    assert site.bridge.log.read_text().count(said) == before + 1, "said once"
    site.fake.change(A, keeps_dead=0)
    assert whole.get(timeout=60) == A
    site.undrain(B)
    for uuid in (A, B):
        site.clean(uuid)


def test_an_error_of_a_task_is_counted_and_changes_nothing(site: Site) -> None:
    shown = site.tell(A, 13)
    assert (shown["unusable"], shown["marked_at"], shown["health"]) == (None, None, "healthy")


def test_an_error_of_the_device_takes_it_out_until_an_operator_has_looked(site: Site) -> None:
    running = site.send("stay")
    uuid = site.begun(running)
    shown = site.tell(uuid, 79)
    assert shown["unusable"] == "XID 79: the GPU has fallen off the bus"
    assert shown["remedy"] == "reset the GPU or restart the node, then `celeray undrain device UUID`"
    assert site.send("here").get(timeout=60) == other(uuid)
    assert site.let_go(running)["device"] == uuid, "it answers, so what runs there may finish"
    until(lambda: not site.device(uuid)["executors"], "its idle executor has ended")
    assert site.undrain(uuid) == (uuid,)
    # A slow machine may be told of the error twice, the second time after the first was forgiven.
    until(lambda: site.undrain(uuid) == (), "there is nothing more to forgive")
    site.clean(uuid)
    assert site.device(uuid)["xids"]["79"] >= 1


def test_a_canary_takes_a_device_back_once_the_driver_asks_for_nothing_more(site: Site) -> None:
    site.fake.change(A, recovery=1)
    site.tell(A, 94)
    shown = site.shows(A, "the driver asks", health_reason="the driver asks to reset the GPU")
    until(lambda: "failed" in (site.device(A)["remedy"] or ""), "a canary has failed")
    assert site.device(A)["remedy"].endswith("the driver asks to reset the GPU")
    assert shown["unusable"]
    assert site.send("here").get(timeout=60) == B
    site.fake.change(A, recovery=0)
    site.clean(A)
    assert site.device(A)["marked_at"] is None


def test_a_drained_device_finishes_its_runs_and_takes_no_more(site: Site) -> None:
    running = site.send("stay")
    uuid = site.begun(running)
    site.drain(uuid)
    site.shows(uuid, "it is drained", unusable="drained by ops@h: test")
    assert {site.send("here").get(timeout=60) for _ in range(3)} == {other(uuid)}
    assert site.device(uuid)["executors"], "what runs there goes on"
    assert site.let_go(running)["device"] == uuid
    until(lambda: not site.device(uuid)["executors"], "its idle executor has ended")
    site.undrain(uuid)
    site.clean(uuid)
