"""kombu's own integration tests of its Redis transport, against it and against celeray's."""

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

from celeray.scheduler.embedded_redis import EmbeddedRedis
from tests.conformance.kombu_plugin import TRANSPORTS
from tests.conformance.outcomes import FAILURES, PASSES
from tests.conformance.sdist import REPOSITORY, carried_tests

MODULES = ("t/integration/test_redis.py", "t/integration/test_redis_brpop_qos.py")
TEST_TIMEOUT_S = 60
HEADING = "Exceptions of the transport"


@dataclass(frozen=True)
class TransportRun:
    """What one run gave."""

    transport: str
    outcomes: Mapping[str, str]
    seconds: float

    def report(self) -> dict[str, Any]:
        return {
            "counts": dict(sorted(Counter(self.outcomes.values()).items())),
            "failures": sorted(test for test, outcome in self.outcomes.items() if outcome in FAILURES),
            "seconds": round(self.seconds, 1),
        }


def run_kombu_suite(transport: str, directory: Path, extra: Sequence[str] = ()) -> TransportRun:
    """Run kombu's tests on a Redis of their own; the outcomes stay in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    suite, written = carried_tests("kombu"), directory / f"{transport}.json"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-q", "-W", "ignore"]
    # Without the plugin that the suite's `flaky` marks are for: a test that fails is not tried again.
    for plugin in ("pytest_timeout", "tests.conformance.kombu_plugin"):
        command += ["-p", plugin]
    # As kombu's setup.cfg has it, which the sdist's `t/` leaves behind.
    command += ["-o", "python_classes=test_* Test*"]
    command += ["-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT_S}"]
    command += [f"--transport={transport}", f"--outcomes={written}", *extra, *MODULES]
    begun = time.monotonic()
    with EmbeddedRedis(directory / f"redis-{transport}") as server:
        environment = {
            **os.environ,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_6379_TCP": str(server.port),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(suite)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        subprocess.run(command, cwd=suite, env=environment, stdout=sys.stderr)
    found = json.loads(written.read_text()) if written.exists() else {}
    return TransportRun(transport, found, time.monotonic() - begun)


def compare(runs: Sequence[TransportRun], documented: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The report, and the reasons for which it is not good.

    A documented name without brackets stands for every parametrisation of its test.
    """
    stock, leased = ({run.transport: run for run in runs}[name] for name in TRANSPORTS)
    owed = [
        test
        for test, outcome in sorted(stock.outcomes.items())
        if outcome in PASSES and leased.outcomes.get(test) not in PASSES
    ]
    missing = [test for test in owed if not _is_documented(test, documented)]
    faults = [f"{run.transport}: no test passed" for run in runs if "passed" not in run.outcomes.values()]
    faults += [f"leased: {test} is owed and not documented" for test in missing]
    report = {run.transport: run.report() for run in runs}
    return {**report, "not_on_leased": owed, "undocumented": missing, "documented": documented}, faults


def _is_documented(test: str, documented: Mapping[str, str]) -> bool:
    name = test.removeprefix("t/integration/")
    return name in documented or name.partition("[")[0] in documented
