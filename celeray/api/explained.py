"""Why a task waits, where it runs or how it ended: one answer for REST and `celeray explain`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from celeray.api.results import ResultMeta, ResultReader
from celeray.api.task_detail import combined
from celeray.scheduler.explanations.answers import WaitingAnswer
from celeray.scheduler.explanations.reading import explain_task
from celeray.scheduler.explanations.words import duration
from celeray.scheduler.letters.record import Letter, LetterState
from celeray.scheduler.letters.store import LetterFilter, Letters
from celeray.scheduler.overview import Overview, seen_by
from celeray.scheduler.status import TaskRecord, TaskState
from celeray.scheduler.status_store import StatusStore

LETTERS_MOST = 20
"""Of one task and state."""
NOTHING_PUBLISHED = "Its bridge has published no placement cycle lately, so nothing can be said of why."


class LetterLink(BaseModel):
    """A letter of the task."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: LetterState
    reason: str
    parked_at: float
    due_at: float | None
    """When it is sent again by itself. None: it is not."""
    path: str
    """Of the letter in this API; it needs the role operator."""


class TaskExplanation(BaseModel):
    """A task: why it waits, where it runs, or how it ended."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    state: TaskState | None
    """None: only a letter knows it any more."""
    words: str
    run: TaskRecord | None
    """Its last run in a bridge. None: it ran on a Celery worker, or too long ago."""
    result: ResultMeta | None
    waiting: WaitingAnswer | None = None
    """None: it does not wait in a bridge, or its bridge has published nothing lately."""
    letters: tuple[LetterLink, ...] = ()
    """Of a task that ended: those that are parked or wait to be sent again, the newest first."""


def read_explanation(
    task_id: str, store: StatusStore, overview: Overview, results: ResultReader | None
) -> TaskExplanation | None:
    """The explanation of one task. None: nobody knows it.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    run = store.read_task(task_id)
    detail = combined(task_id, run and seen_by(overview, run), results.read(task_id) if results else None)
    if detail is None or detail.state not in (TaskState.WAITING, TaskState.RUNNING):
        ended_well = detail is not None and detail.state is TaskState.SUCCEEDED
        letters = () if ended_well else tuple(_letters(store, task_id))
        if detail is None and not letters:
            return None
        return _ended(
            TaskExplanation(
                task_id=task_id,
                state=detail and detail.state,
                words="",
                run=detail and detail.run,
                result=detail and detail.result,
                letters=letters,
            )
        )
    found = TaskExplanation(
        task_id=task_id, state=detail.state, words="", run=detail.run, result=detail.result
    )
    if detail.state is TaskState.RUNNING or detail.run is None:
        return found.model_copy(update={"words": _running(detail.run, overview.at)})
    waiting = explain_task(store, overview.bridges, detail.run, overview.at)
    text = waiting.words if waiting is not None else NOTHING_PUBLISHED
    return found.model_copy(update={"words": text, "waiting": waiting})


def _running(run: TaskRecord | None, now: float) -> str:
    if run is None or run.started_at is None:
        return "It runs on a Celery worker."
    devices = f", on {' and '.join(run.device_uuids)}" if run.device_uuids else ""
    since = duration(max(0.0, now - run.started_at))
    return f"It runs on {run.node_name or run.hostname}{devices}, for {since} so far."


def _ended(found: TaskExplanation) -> TaskExplanation:
    run = found.run
    if found.state is None:
        said = ["Only a letter knows it any more."]
    elif run is not None and run.state is found.state:
        why = f", {run.reason}" if run.reason else ""
        detail = f": {run.detail}" if run.detail else ""
        said = [f"It ended as {found.state}{why}{detail}."]
    else:
        said = [f"It ended as {found.state} on a Celery worker."]
    for letter in found.letters:
        then = (
            "waits to be sent again by its retry policy"
            if letter.state is LetterState.SCHEDULED
            else "is parked"
        )
        said.append(f"Its letter {letter.id} {then}.")
    return found.model_copy(update={"words": " ".join(said)})


def _letters(store: StatusStore, task_id: str) -> Iterator[LetterLink]:
    letters = Letters(store.client, store.keys)
    found: list[Letter] = []
    for state in (LetterState.SCHEDULED, LetterState.PARKED):
        found += letters.page(LetterFilter(task_id=task_id, state=state), LETTERS_MOST).letters
    for letter in sorted(found, key=lambda one: (one.parked_at, one.id), reverse=True):
        yield LetterLink(
            id=letter.id,
            state=letter.state,
            reason=letter.reason,
            parked_at=letter.parked_at,
            due_at=letter.due_at,
            path=f"/v1/dead-letters/{letter.id}",
        )
