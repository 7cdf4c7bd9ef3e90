"""The pytest plugin of a conformance run: an external worker in place of Celery's embedded one.

The suite's session fixture looks `celery.contrib.testing.worker.start_worker` up when it is called, so no file of the
suite is edited. What the embedded worker shared with the tests through memory comes back by `relay` and `state`.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing import tasks as testing_tasks
from celery.contrib.testing import worker as testing_worker
from celery.result import _set_task_join_will_block, allow_join_result
from celery.utils.nodenames import anon_nodename

from benchmarks.workers import WorkerProcess
from tests.conformance.outcomes import outcome_of, worse
from tests.conformance.relay import ADDRESS_VARIABLE, RelayServer
from tests.conformance.state import mirrored_state
from tests.conformance.worker import KINDS, external_worker

OUTCOMES_FILE = "outcomes.json"
PING_TASK_DEADLINE_S = 120.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-worker", choices=KINDS, required=True, help="the kind of worker")
    parser.addoption("--conformance-dir", required=True, help="folder for the worker's log and the outcomes")


def pytest_configure(config: pytest.Config) -> None:
    directory = Path(config.getoption("--conformance-dir"))
    run = ConformanceRun(config.getoption("--conformance-worker"), directory)
    config.pluginmanager.register(run)
    testing_worker.start_worker = run.start_worker


class ConformanceRun:
    """One session: its worker, and the last outcome of each test."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self._directory = directory
        self._worker: WorkerProcess | None = None
        self._worker_pid: int | None = None
        self._outcomes: dict[str, str] = {}
        self._reruns: Counter[str] = Counter()
        self._durations: defaultdict[str, float] = defaultdict(float)
        self._relay_faults: list[str] = []

    @contextmanager
    def start_worker(self, app: Celery, **_: object) -> Iterator[WorkerProcess]:
        """Same contract as Celery's: the worker is up and has run a task when this yields.

        The embedded worker's options (pool, concurrency) do not apply; `worker` holds the external one's.
        """
        testing_worker.setup_app_for_worker(app, testing_worker.WORKER_LOGLEVEL, None)
        relay = RelayServer(app)
        relay.start()
        os.environ[ADDRESS_VARIABLE] = relay.address
        # The node name that Celery's embedded worker takes, and that test_inspect looks for.
        self._worker = external_worker(self._kind, app, anon_nodename(), self._directory / "worker.log")
        try:
            with self._worker, mirrored_state(app, self._worker.node):
                # The process that consumes: a launcher may stand between it and us.
                self._worker_pid = self._worker.stats()["pid"]
                with allow_join_result():
                    assert testing_tasks.ping.delay().get(timeout=PING_TASK_DEADLINE_S) == "pong"
                yield self._worker
        finally:
            relay.stop()
            self._relay_faults = relay.faults

    def pytest_runtest_setup(self) -> None:
        """A worker object that a test builds in this process marks it as one in which no result may be awaited."""
        _set_task_join_will_block(False)
        if self._worker is not None and (code := self._worker.exit_code) is not None:
            pytest.exit(
                f"the {self._kind} worker ended with code {code}; see {self._worker.log}", returncode=3
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._durations[report.nodeid] += report.duration
        reported: str = report.outcome
        if reported == "rerun":  # pytest-rerunfailures' own
            self._reruns[report.nodeid] += 1
            self._outcomes.pop(report.nodeid, None)
        elif outcome := outcome_of(report):
            self._outcomes[report.nodeid] = worse(self._outcomes.get(report.nodeid), outcome)

    def pytest_unconfigure(self) -> None:
        """A session that ends in an error of pytest's own leaves its fixtures as they are."""
        if self._worker is not None:
            self._worker.stop()

    def pytest_sessionfinish(self) -> None:
        found = {
            "outcomes": self._outcomes,
            "reruns": dict(self._reruns),
            "durations": dict(self._durations),
            "worker_pid": self._worker_pid,
            "relay_faults": self._relay_faults,
        }
        (self._directory / OUTCOMES_FILE).write_text(json.dumps(found))
