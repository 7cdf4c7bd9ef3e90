"""docs/rest.md names every route and every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from celeray.api.access import RULES
from celeray.scheduler.model import Reason
from celeray.scheduler.status import TaskState

DOCUMENT = (Path(__file__).parents[3] / "docs" / "rest.md").read_text()
NOT_IN_A_TABLE = {"GET /docs/{asset}"}
"""The files of the page at /docs."""


def test_routes_and_their_roles() -> None:
    rows = re.findall(r"^\| `((?:GET|POST) /[^`]*)` \| (\w+) \|", DOCUMENT, re.MULTILINE)
    roles = {f"{rule.method} {rule.path}": rule.role.value if rule.role else "none" for rule in RULES}
    assert dict(rows) == {route: role for route, role in roles.items() if route not in NOT_IN_A_TABLE}


def test_reasons_and_states() -> None:
    table = DOCUMENT.partition("the task waits since")[2].partition("## Tasks")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(Reason)
    states = DOCUMENT.partition("`state` is one of")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", states)) == set(TaskState)
