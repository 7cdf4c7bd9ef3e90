"""Services that the tests share: one Redis a session, on a free port and in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import coverage
import pytest
import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.errors import ConfigurationError

COVERAGE_VARIABLE = "COVERAGE_PROCESS_CONFIG"
"""By it coverage measures the processes that a measured one starts, which costs them as much CPU time as their work."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was measured. pytest-xdist kills its processes where they take 10 s to end, as with Ray in them they
    may, and a report without one of them is below its bound.
    """
    measured = coverage.Coverage.current()
    if hasattr(session.config, "workerinput") and measured is not None:
        measured.save()


@pytest.fixture(autouse=True, scope="module")
def _processes_to_measure(request: pytest.FixtureRequest) -> Iterator[None]:
    """The processes of a module with the mark `unmeasured`, and those of the fault tests, run as a user's do."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("unmeasured") or request.path.parent.name == "faults":
            patch.delenv(COVERAGE_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis server. Where there is none: a failure in CI, a skip elsewhere."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The server's address, with an empty database."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
    return redis_server.url
