"""One run of the suite: a Redis server of its own, a pytest process, the outcomes it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis
from tests.conformance.outcomes import FAILURES
from tests.conformance.plugin import OUTCOMES_FILE
from tests.conformance.runs import RUNS_VARIABLE, RunSite, read_runs
from tests.conformance.sdist import REPOSITORY, carried_tests
from tests.conformance.suite import DESELECTED

# A database that no test of the suite looks at.
RUNS_DATABASE = 9
TEST_TIMEOUT_S = 180
SLOWEST = 10
NOTHING_WRITTEN: dict[str, Any] = {
    "outcomes": {},
    "reruns": {},
    "durations": {},
    "worker_pid": None,
    "relay_faults": [],
}


@dataclass(frozen=True)
class SuiteRun:
    """What one run of the suite gave."""

    worker: str
    outcomes: Mapping[str, str]
    reruns: Mapping[str, int]
    durations: Mapping[str, float]
    """Seconds a test took, with its fixtures and its reruns."""
    sites: Sequence[RunSite]
    worker_pid: int | None
    relay_faults: Sequence[str]
    pytest_exit: int
    seconds: float

    @property
    def unfinished(self) -> bool:
        """pytest itself did not come to its end (its own codes 0 and 1 are the two ordinary ends)."""
        return self.pytest_exit not in (0, 1)

    @property
    def tasks_in_worker_process(self) -> int:
        return sum(site.tasks for site in self.sites if site.pid == self.worker_pid)

    def report(self) -> dict[str, Any]:
        failures = sorted(test for test, outcome in self.outcomes.items() if outcome in FAILURES)
        slowest = sorted(self.durations, key=lambda test: -self.durations[test])[:SLOWEST]
        return {
            "counts": dict(sorted(Counter(self.outcomes.values()).items())),
            "seconds": round(self.seconds, 1),
            "pytest_exit": self.pytest_exit,
            "failures": failures,
            "reruns": dict(self.reruns),
            "slowest_s": {test: round(self.durations[test], 1) for test in slowest},
            "worker_pid": self.worker_pid,
            "tasks_in_worker_process": self.tasks_in_worker_process,
            "tasks_by_actor": {site.actor_id: site.tasks for site in self.sites if site.actor_id},
            "tasks_outside_actors": sum(site.tasks for site in self.sites if not site.actor_id),
        }


def run_suite(worker: str, selection: Sequence[str], directory: Path, extra: Sequence[str] = ()) -> SuiteRun:
    """Run `selection` (paths or node ids) against a fresh `worker`; its log and the outcomes stay in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    suite = carried_tests("celery")
    begun = time.monotonic()
    with EmbeddedRedis(directory / "redis") as server:
        done = subprocess.run(
            _pytest_command(worker, selection, directory, extra),
            cwd=suite,
            env=_environment(suite, server),
            stdout=sys.stderr,
        )
        with redis.Redis(port=server.port, db=RUNS_DATABASE) as client:
            sites = read_runs(client)
    written = directory / OUTCOMES_FILE
    found = json.loads(written.read_text()) if written.exists() else NOTHING_WRITTEN
    seconds = time.monotonic() - begun
    return SuiteRun(worker=worker, sites=sites, pytest_exit=done.returncode, seconds=seconds, **found)


def _pytest_command(
    worker: str, selection: Sequence[str], directory: Path, extra: Sequence[str]
) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir", "."]
    # Autoload is off in the environment: the suite sees these plugins and no others that happen to be installed.
    for plugin in (
        "celery.contrib.pytest",
        "pytest_timeout",
        "pytest_rerunfailures",
        "tests.conformance.plugin",
    ):
        command += ["-p", plugin]
    # Three of the suite's strict xfails pass with an external worker.
    command += ["-o", "xfail_strict=false", "-p", "no:cacheprovider", "-q", f"--timeout={TEST_TIMEOUT_S}"]
    command += [f"--deselect={test}" for test in DESELECTED]
    command += [f"--conformance-worker={worker}", f"--conformance-dir={directory}", *extra]
    return [*command, *selection]


def _environment(suite: Path, server: EmbeddedRedis) -> dict[str, str]:
    """The suite's variables, and both import roots for the worker, its children and its executors."""
    return {
        **os.environ,
        "TEST_BROKER": server.url,
        "TEST_BACKEND": server.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "WORKER_LOGLEVEL": "INFO",
        RUNS_VARIABLE: f"redis://127.0.0.1:{server.port}/{RUNS_DATABASE}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(suite)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # The suite starts `celery` by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
