"""Rigs for the tests, and the report of a run: `pytest tests/faults --faults-report faults.md`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis
from tests.faults.application import GPU_QUEUE
from tests.faults.checker import Findings
from tests.faults.gpu import GPU_LEASE_S, NODE, GpuRig
from tests.faults.report import Report
from tests.faults.rig import DRAIN_DEADLINE_S, NotDrainedError, Rig
from tests.faults.servers import Broker
from tests.integration.conftest import RayTestCluster, ray_cluster, ray_environment

__all__ = ["ray_cluster", "ray_environment"]

REPORT = pytest.StashKey[Report]()
MakeRig = Callable[..., Rig]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-report", metavar="PATH", help="Write the table of faults there: .md or .json.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash.get(REPORT, None)
    if report is None or not report.rows:
        return
    terminalreporter.section("faults: stock, then celeray")
    for line in report.lines():
        terminalreporter.write_line(line)
    wanted = config.getoption("--faults-report", default=None) or os.environ.get("FAULTS_REPORT")
    if wanted:
        report.write(Path(wanted))


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(REPORT, Report())


@pytest.fixture
def world(redis_server: EmbeddedRedis) -> str:
    """Results and effects: a server that no test breaks, emptied."""
    url = f"redis://127.0.0.1:{redis_server.port}/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def make_rig(tmp_path: Path, world: str) -> Iterator[MakeRig]:
    """Makes a started rig: `make_rig(transport)`, on a server of its own or the broker that is given."""
    made: list[Rig] = []

    def make(transport: str, broker: Any = None, **options: Any) -> Rig:
        folder = tmp_path / f"rig{len(made)}"
        folder.mkdir()
        made.append(Rig(folder, transport, world, broker or Broker(folder / "redis"), **options))
        return made[-1].start()

    yield make
    for rig in reversed(made):
        rig.close()


@pytest.fixture
def settle(report: Report) -> Callable[..., Findings]:
    """Ends a celeray side: enters it into the report, and asserts that nothing was lost or doubled."""

    def judge(rig: Rig, fault: str, drain_s: float = DRAIN_DEADLINE_S, **options: Any) -> Findings:
        try:
            found = rig.findings(drain_s, **options)
            hung = False
        except NotDrainedError:
            if rig.leased:
                raise
            rig.fault("workers that hang were replaced")
            rig.replace_workers()
            found, hung = rig.findings(drain_s, **options), True
        report.add(fault, rig.transport, found, hung=hung)
        print(f"{fault}, {rig.transport}: {found.summary()}")
        if rig.leased:
            assert found.acknowledged > 0, "nothing was tested"
            assert found.clean, f"{fault}: {found.summary()}\n{found}\n{rig.logs()}"
        return found

    return judge


@pytest.fixture(scope="session")
def nodes(ray_cluster: RayTestCluster) -> Iterator[RayTestCluster]:
    """Two nodes with a simulated device each."""
    added = [ray_cluster.add_node(**NODE) for _ in range(2)]
    yield ray_cluster
    for node in added:
        ray_cluster.remove_node(node)


@pytest.fixture
def gpus(make_rig: MakeRig, nodes: RayTestCluster, monkeypatch: pytest.MonkeyPatch) -> GpuRig:
    """A rig for bridges."""
    monkeypatch.setenv("CELERAY_READING_INTERVAL_S", "0.5")
    return GpuRig(make_rig("leased", queue=GPU_QUEUE, options={"lease_s": GPU_LEASE_S}), nodes.address)
