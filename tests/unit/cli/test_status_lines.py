"""The lines of `celeray status` about nodes that come and go."""

from __future__ import annotations

import pytest

from celeray.cli import status
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.status import ClusterStatus

NOW = 1_000_000.0


def shown(*elastic: ElasticStatus) -> list[str]:
    found = ClusterStatus(version="1", state="ok", redis_ok=True, ray_connected=True, elastic=elastic)
    return [line for line in status.lines(found) if line.startswith("elastic")]


def test_a_line_for_each_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status.time, "time", lambda: NOW)
    asking = ElasticStatus(type="a100", min=0, max=4, there=2, asked=1, asked_since=NOW - 35)
    going = ElasticStatus(type="l4", min=1, max=2, there=1, leaving=1, released=1)

    assert shown(asking, going) == [
        "elastic   a100: 2 there of at most 4, 1 asked for (the first 35.0s ago), 0 leaving, 0 given back",
        "elastic   l4: 1 there of at most 2, 0 asked for, 1 leaving, 1 given back",
    ]


def test_none_without_the_setting() -> None:
    assert shown() == []
