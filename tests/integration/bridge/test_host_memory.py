"""A bridge with a Ray of its own in a cgroup whose memory runs out: the kernel itself kills the executor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.parked import ParkReason
from tests.integration.host_memory_checks import check_kernel_kills, check_killed_by_another
from tests.integration.memory_cgroup import MemoryCgroup, memory_cgroup
from tests.integration.outcome_rows import BRIDGE, KERNEL_ROWS, Row, Site

from .live import LiveBridge, application

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.unmeasured]
MODULE = "tests.apps.endings"
LIMIT_MIB = 3072
"""The bridge, its driver and a Ray of its own take about half of it."""


@pytest.fixture(scope="module")
def cgroup() -> Iterator[MemoryCgroup]:
    with memory_cgroup(LIMIT_MIB) as made:
        yield made


@pytest.fixture(scope="module")
def limited(
    cgroup: MemoryCgroup, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    folder = tmp_path_factory.mktemp("limited")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        bridge = LiveBridge(url, folder, module=MODULE, gpus="1x24GiB", name="limited", cgroup=cgroup).start()
        yield Site(application(url, MODULE), client, "gpu.processing", BRIDGE, bridge.node)
        bridge.stop()


@pytest.mark.parametrize("row", KERNEL_ROWS, ids=str)
def test_row(limited: Site, cgroup: MemoryCgroup, row: Row) -> None:
    check_kernel_kills(row, limited, cgroup)


def test_one_that_somebody_else_kills_afterwards_is_lost(limited: Site) -> None:
    check_killed_by_another(limited, ParkReason.EXECUTOR_LOST)
