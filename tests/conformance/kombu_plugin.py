"""The pytest plugin of a run of kombu's suite: our classes behind kombu's names for Redis, and the outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import kombu.transport
import pytest

from tests.conformance.outcomes import outcome_of, worse

TRANSPORTS = ("kombu", "leased")
LEASED = {
    "redis": "celeray.scheduler.transport:Transport",
    "rediss": "celeray.scheduler.transport:SSLTransport",
    "sentinel": "celeray.scheduler.transport:SentinelTransport",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--transport", choices=TRANSPORTS, required=True, help="whose transport is tested")
    parser.addoption("--outcomes", required=True, help="file for the outcomes, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--transport") == "leased":
        kombu.transport.TRANSPORT_ALIASES.update(LEASED)
    config.pluginmanager.register(Outcomes(Path(config.getoption("--outcomes"))))


class Outcomes:
    """The last outcome of each test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if outcome := outcome_of(report):
            self._found[report.nodeid] = worse(self._found.get(report.nodeid), outcome)

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._found))
