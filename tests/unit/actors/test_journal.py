"""What an executor leaves behind about its batch, wherever it was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.actors.journal import (
    SWEEP_AFTER_S,
    Journal,
    journal_path,
    read_journal,
    sweep_journals,
    take_journal,
)
from celeray.scheduler.cluster import Progress, RunEnded


def ended(run_id: int, payload: bytes = b"outcome") -> RunEnded:
    return RunEnded("e1", run_id, payload, None, 0.25)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal("e1", tmp_path)
    journal.begin_batch()
    return journal


def taken(folder: Path) -> tuple[list[RunEnded], Progress]:
    data = take_journal(os.getpid(), "e1", folder)
    assert data is not None
    return read_journal("e1", data)


def test_it_tells_what_ended_what_ran_and_what_never_began(journal: Journal, tmp_path: Path) -> None:
    journal.begun(1)
    journal.ended([ended(1, b"one")])
    journal.begun(2)
    journal.begun(3)
    assert taken(tmp_path) == ([ended(1, b"one")], Progress(running=3, unstored=(2,)))
    assert take_journal(os.getpid(), "e1", tmp_path) is None, "it is taken once"


def test_between_two_runs_none_is_to_blame(journal: Journal, tmp_path: Path) -> None:
    journal.begun(1)
    journal.ended([ended(1)])
    assert taken(tmp_path) == ([ended(1)], Progress())


def test_while_the_results_are_stored_none_is_to_blame(journal: Journal, tmp_path: Path) -> None:
    journal.begun(1)
    journal.begun(2)
    journal.returned()
    assert taken(tmp_path) == ([], Progress(unstored=(1, 2)))


def test_each_batch_begins_it_anew(journal: Journal, tmp_path: Path) -> None:
    journal.begun(1)
    journal.begin_batch()
    journal.begun(2)
    assert taken(tmp_path) == ([], Progress(running=2))


def test_one_that_leaves_by_itself_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    assert list(tmp_path.iterdir()) == []


@given(st.data())
def test_what_was_cut_off_did_not_happen(data: st.DataObject) -> None:
    """Whatever byte was the last: a run is told of at most once, and only the first unfinished one may have run."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"celeray-journal-{os.getpid()}"
    path.mkdir(exist_ok=True)
    journal = Journal("cut", path)
    count = data.draw(st.integers(1, 5))
    stored_at = data.draw(st.integers(0, count))
    for run_id in range(count):
        journal.begun(run_id)
        if run_id >= stored_at:
            journal.ended([ended(run_id, b"x" * run_id)])
    whole = take_journal(os.getpid(), "cut", path)
    assert whole is not None
    found, progress = read_journal("e1", whole[: data.draw(st.integers(0, len(whole)))])
    ids = [run.run_id for run in found]
    assert len(set(ids)) == len(ids)
    assert all(run.payload == b"x" * run.run_id for run in found)
    named = {*ids, *progress.unstored} | ({progress.running} - {None})
    assert named == set(range(len(named))), "in order, from the first on"
    assert not set(ids) & set(progress.unstored)


def test_journals_of_the_dead_are_swept_after_an_hour(tmp_path: Path) -> None:
    Journal("mine", tmp_path)
    dead = journal_path(2**22 + 1, "theirs", tmp_path)
    dead.touch()
    now = dead.stat().st_mtime
    assert sweep_journals(now + SWEEP_AFTER_S - 1, tmp_path) == 0
    assert sweep_journals(now + SWEEP_AFTER_S + 1, tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{os.getpid()}-mine"]
