"""The kernel's count of processes that it killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeray.scheduler.endings.host_memory import OutOfMemoryKills


@pytest.mark.parametrize(
    "before",
    [
        "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n",
        "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
    ],
)
def test_it_rises_with_each_kill(tmp_path: Path, before: str) -> None:
    events = tmp_path / "memory.events"
    events.write_text(before.format(2))
    kills = OutOfMemoryKills(events)

    assert not kills.have_risen()
    events.write_text(before.format(3))
    assert kills.have_risen()
    assert not kills.have_risen()
    events.unlink()
    assert not kills.have_risen()


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill many", "nothing 1\n"])
def test_what_tells_nothing_counts_nothing(tmp_path: Path, text: str) -> None:
    events = tmp_path / "memory.events"
    events.write_text(text)

    assert not OutOfMemoryKills(events).have_risen()


def test_this_machine_is_read() -> None:
    kills = OutOfMemoryKills()

    assert kills.have_risen() in (True, False)
