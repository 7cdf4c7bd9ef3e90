"""A prefork worker in a cgroup whose memory runs out: the kernel itself kills the process of the task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from celeray.scheduler.parked import ParkReason
from tests.integration.bridge.live import application
from tests.integration.host_memory_checks import check_kernel_kills, check_killed_by_another
from tests.integration.memory_cgroup import MemoryCgroup, memory_cgroup
from tests.integration.outcome_rows import KERNEL_ROWS, PREFORK, Row, Site
from tests.integration.scheduler.endings.conftest import MODULE, QUEUE, LiveWorker

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]
LIMIT_MIB = 640
"""The worker and its child take about 200 of it."""


@pytest.fixture(scope="module")
def cgroup() -> Iterator[MemoryCgroup]:
    with memory_cgroup(LIMIT_MIB) as made:
        yield made


@pytest.fixture(scope="module")
def limited(
    cgroup: MemoryCgroup, module_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("limited")
    worker = LiveWorker(module_url, folder, "-P", "prefork", "-c", "1", name="limited", cgroup=cgroup).start()
    with redis.Redis.from_url(module_url) as client:
        yield Site(application(module_url, MODULE), client, QUEUE, PREFORK, worker.node)
    worker.stop()


ONCE, BY_POLICY = KERNEL_ROWS


@pytest.mark.parametrize("row", [ONCE, pytest.param(BY_POLICY, marks=pytest.mark.slow)], ids=str)
def test_row(limited: Site, cgroup: MemoryCgroup, row: Row) -> None:
    check_kernel_kills(row, limited, cgroup)


def test_one_that_somebody_else_kills_afterwards_is_lost(limited: Site) -> None:
    check_killed_by_another(limited, ParkReason.WORKER_LOST)
