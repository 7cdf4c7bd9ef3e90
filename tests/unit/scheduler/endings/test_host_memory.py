"""The kernel's count of processes that it killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeray.scheduler.endings.host_memory import LATELY_S, OutOfMemoryKills, RecentKills


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

    assert kills.rise() == 0
    events.write_text(before.format(4))
    assert kills.rise() == 2
    assert kills.rise() == 0
    events.unlink()
    assert kills.rise() == 0


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill many", "nothing 1\n"])
def test_what_tells_nothing_counts_nothing(tmp_path: Path, text: str) -> None:
    events = tmp_path / "memory.events"
    events.write_text(text)

    assert OutOfMemoryKills(events).rise() == 0


def test_this_machine_is_read() -> None:
    assert OutOfMemoryKills().rise() >= 0


class Seconds:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_kill_explains_one_death(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 5\n")
    recent = RecentKills(OutOfMemoryKills(events), Seconds())
    assert not recent.take(), "those of before are not its own"

    events.write_text("oom_kill 7\n")

    assert [recent.take() for _ in range(3)] == [True, True, False]


def test_a_kill_that_was_seen_long_ago_explains_none(tmp_path: Path) -> None:
    events, clock = tmp_path / "memory.events", Seconds()
    events.write_text("oom_kill 0\n")
    recent = RecentKills(OutOfMemoryKills(events), clock)
    events.write_text("oom_kill 1\n")
    recent.look()

    clock.now = LATELY_S + 1
    assert not recent.take()

    events.write_text("oom_kill 2\n")
    recent.look()
    clock.now += LATELY_S
    assert recent.take()
