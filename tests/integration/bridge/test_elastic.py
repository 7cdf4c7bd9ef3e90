"""A real autoscaler: tasks wait, a node comes for them, they run, and the node goes when it is idle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.status_store import StatusStore
from tests.integration.autoscaling import MIB, AutoscalingRay

from .live import LiveBridge, application, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.unmeasured,
    pytest.mark.timeout(400),
]
COMES_WITHIN_S = 120.0
GOES_WITHIN_S = 120.0
IN_RAY = {
    "sim": {
        "resources": {"CPU": 2, "GPU": 2, "sim_node": 1, "object_store_memory": 100 * MIB},
        "node_config": {},
        "labels": {"zone": "b"},
        "min_workers": 0,
        "max_workers": 2,
    }
}
HERE = {
    "sim": {
        "gpus": 2,
        "gpu_type": "SIM-24GiB",
        "vram": "24GiB",
        "cpus": 2,
        "memory": "1GiB",
        "max": 2,
        "start_s": 10,
        "labels": {"zone": "b"},
        "resources": {"sim_node": 1},
    }
}


@pytest.fixture
def autoscaling_ray(ray_environment: Path, tmp_path: Path) -> Iterator[AutoscalingRay]:
    ray = AutoscalingRay(tmp_path, IN_RAY, idle_s=3.0).start()
    yield ray
    ray.stop()


@pytest.fixture
def bridge(
    autoscaling_ray: AutoscalingRay, redis_server: EmbeddedRedis, tmp_path: Path
) -> Iterator[LiveBridge]:
    url = f"redis://127.0.0.1:{redis_server.port}/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    live = LiveBridge(
        url,
        tmp_path,
        "--ray-address",
        autoscaling_ray.address,
        name="elastic",
        env={
            "CELERAY_ELASTIC": json.dumps(HERE),
            "CELERAY_ELASTIC_IDLE_S": "4",
            "CELERAY_READING_INTERVAL_S": "0.25",
        },
    ).start()
    yield live
    live.stop()


def test_a_node_comes_for_what_waits_and_goes_when_it_is_idle(
    bridge: LiveBridge, autoscaling_ray: AutoscalingRay
) -> None:
    with redis.Redis.from_url(bridge.url) as client:
        store = StatusStore(client)

        def stands() -> ElasticStatus | None:
            return next((item for found in store.read_bridges() for item in found.elastic), None)

        def nodes() -> list[int]:
            """Devices of each node that the bridge has."""
            return sorted(len(node.devices) for found in store.read_bridges() for node in found.nodes)

        def reach(condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
            try:
                until(condition, what, deadline_s)
            except AssertionError as error:
                head = autoscaling_ray.log.read_text()[-1500:]
                raise AssertionError(f"{error}; {stands()}, {nodes()}\n{bridge.tail()}\n{head}") from None

        reach(lambda: nodes() == [0], "the bridge has read the head", COMES_WITHIN_S)
        here = application(bridge.url).tasks["gpu.here"]
        results = [here.apply_async(queue="gpu.processing") for _ in range(2)]
        reach(lambda: (one := stands()) is not None and one.asked == 1, "a node is asked for")

        reach(lambda: all(result.ready() for result in results), "they ran", COMES_WITHIN_S)

        assert all(result.successful() for result in results)
        assert nodes() == [0, 2]
        one = stands()
        assert one is not None
        assert (one.there, one.asked) == (1, 0)

        def is_gone() -> bool:
            now = stands()
            return now is not None and now.there + now.leaving + now.released == 0

        reach(is_gone, "the autoscaler took the idle node away", GOES_WITHIN_S)
        assert nodes() == [0]
