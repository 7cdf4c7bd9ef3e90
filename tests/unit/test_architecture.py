"""The documentation says what the code says: state diagrams, reasons and settings are compared with their tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.model import Reason
from celeray.scheduler.parked import ParkReason
from celeray.scheduler.settings import Settings, WorkerSettings
from celeray.scheduler.states import EXECUTOR_TRANSITIONS, RUN_TRANSITIONS

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
QUEUES = (ROOT / "docs" / "queues.md").read_text(encoding="utf-8")


def drawn(name: str) -> set[tuple[str, str]]:
    """Edges of the mermaid diagram that carries the comment `%% name`, `[*]` for the begin and the end."""
    diagram = next(
        block
        for block in re.findall(r"```mermaid\n(.*?)```", ARCHITECTURE, re.DOTALL)
        if f"%% {name}\n" in block
    )
    return set(re.findall(r"^ *(\S+) --> ([^\s:]+)", diagram, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "table", "begin"),
    [("RunState", RUN_TRANSITIONS, "waiting"), ("ExecutorState", EXECUTOR_TRANSITIONS, "starting")],
)
def test_state_diagrams_are_the_tables(name: str, table: Mapping[Enum, frozenset[Enum]], begin: str) -> None:
    allowed = {(old.value, new.value) for old, targets in table.items() for new in targets}
    ends = {(old.value, "[*]") for old, targets in table.items() if not targets}

    assert drawn(name) == allowed | ends | {("[*]", begin)}


def test_every_reason_is_explained() -> None:
    section = ARCHITECTURE.split("## Why a task waits")[1].split("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {reason.value for reason in Reason}


def test_every_reason_of_a_parked_message_is_explained() -> None:
    section = OPERATIONS.split("### Why a message is parked")[1].split("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {
        reason.value for reason in ParkReason
    }


def test_every_setting_is_in_the_reference_with_its_default() -> None:
    section = QUEUES.split("## Settings")[1]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))

    keys = set(WorkerSettings.model_fields) | set(NodeType.model_fields)
    assert set(documented) == set(Settings.model_fields) | keys
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            assert documented[name] == f"`{field.default}`", name


def test_every_route_is_documented() -> None:
    for task, queue in Settings().routes.items():
        assert re.search(rf"`{task}`.*\| `{re.escape(queue)}`", QUEUES), task


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
