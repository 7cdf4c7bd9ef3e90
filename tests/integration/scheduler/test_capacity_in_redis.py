"""Bridges write what they see, producers refuse what it can never hold; on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celeray.scheduler.capacity import (
    CapacityWriter,
    ClusterCapacity,
    DeviceCapacity,
    NodeCapacity,
    capacity_index,
    capacity_key,
    read_capacity,
)
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.errors import NeverFitsError
from celeray.scheduler.keys import Keys


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def capacity(gib: int, *, may_grow: bool = False) -> ClusterCapacity:
    device = DeviceCapacity("NVIDIA L4", gib * 1024)
    return ClusterCapacity((NodeCapacity(8000, 65536, {"zone": "a"}, (device,)),), may_grow)


@pytest.mark.parametrize("prefix", ["", "team-a:"])
def test_what_several_bridges_wrote_is_read_together(client: redis.Redis, prefix: str) -> None:
    keys = Keys(prefix=prefix)
    assert read_capacity(client, keys) is None
    first, second = (CapacityWriter(client, name, keys=keys) for name in ("one", "two"))
    first.write(capacity(24))
    second.write(capacity(80))
    first.write(capacity(40))
    read = read_capacity(client, keys)
    assert read is not None
    assert sorted(node.devices[0].total_mib or 0 for node in read.nodes) == [40 * 1024, 80 * 1024]
    assert not read.may_grow
    second.withdraw()
    assert read_capacity(client, keys) == capacity(40)
    assert 0 < client.ttl(capacity_key(keys, "one")) <= 60  # type: ignore[operator]


def test_one_that_may_grow_makes_all_of_it_open(client: redis.Redis) -> None:
    CapacityWriter(client, "one").write(capacity(24))
    CapacityWriter(client, "two").write(ClusterCapacity(may_grow=True))
    read = read_capacity(client, Keys())
    assert read is not None
    assert read.may_grow


def test_a_bridge_that_sees_no_node_yet_says_nothing(client: redis.Redis) -> None:
    CapacityWriter(client, "one").write(ClusterCapacity())
    assert read_capacity(client, Keys()) is None


def test_a_document_that_can_not_be_read_leaves_it_open(client: redis.Redis) -> None:
    CapacityWriter(client, "one").write(capacity(24))
    CapacityWriter(client, "two").write(capacity(24))
    client.set(capacity_key(Keys(), "two"), '{"nodes": 7}')
    read = read_capacity(client, Keys())
    assert read is not None
    assert read.may_grow


def test_bridges_that_vanished_leave_the_index(client: redis.Redis) -> None:
    clock = ManualClock()
    CapacityWriter(client, "gone", clock=clock).write(capacity(24))
    clock.advance(61)
    client.delete(capacity_key(Keys(), "gone"))
    CapacityWriter(client, "here", clock=clock).write(capacity(24))
    assert client.zrange(capacity_index(Keys()), 0, -1) == [b"here"]


def test_a_publish_is_refused_where_the_cluster_is_known(front: Celery, client: redis.Redis) -> None:
    task = front.tasks["front.generate_image"]
    CapacityWriter(client, "one").write(capacity(24))
    asked = {"resource_requirements": {"vram_gb": 200}}
    with pytest.raises(NeverFitsError, match="vram_gb=200: the largest device has 24 GiB"):
        task.apply_async(headers=asked)
    with pytest.raises(NeverFitsError):
        task.apply_async(headers={**asked, "priority_task": True})
    with pytest.raises(NeverFitsError):
        front.send_task("elsewhere.generate_image", headers=asked)
    task.apply_async()
    task.apply_async(headers={"resource_requirements": {"gpu": False}}, queue="cpu.analysis")
    assert client.llen("gpu.generation\x06\x165") == 1


def test_a_publish_is_not_refused_where_it_is_not(front: Celery, client: redis.Redis) -> None:
    front.tasks["front.generate_image"].apply_async(headers={"resource_requirements": {"vram_gb": 200}})
    assert client.llen("gpu.generation\x06\x165") == 1
