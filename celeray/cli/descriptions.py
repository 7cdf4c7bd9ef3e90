"""What `celeray describe` shows, put together from what a `Source` gives."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from celeray.api.results import ResultMeta
from celeray.cli.lazy import EXIT_FAILED, CliError
from celeray.cli.sources import AnswerError, Source
from celeray.scheduler.letters.attempts import Attempt
from celeray.scheduler.letters.record import Letter, LetterState
from celeray.scheduler.letters.store import LetterFilter
from celeray.scheduler.status import DeviceStatus, NodeStatus, TaskRecord, TaskState

LETTERS_MOST = 20
"""Of one task and letter state; one has more only where its id was used again and again."""
RUNNING_MOST = 500
"""As many as REST lists at once: tasks that run on one node are looked for among these."""
NOT_FOR_VIEWERS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

T = TypeVar("T", DeviceStatus, NodeStatus)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class DescribedLetter(Letter):
    """A letter of the task, without the task's arguments."""

    history: tuple[Attempt, ...] | None = None
    """Its attempts. None: the API gives them to operators only, or it was forgotten meanwhile."""


class TaskDescription(_Frozen):
    """All that is known of one task."""

    task_id: str
    state: TaskState | None
    """None: no bridge and no stored result knows it any more, only a letter does."""
    run: TaskRecord | None
    """Its last run in a bridge. None: it ran on a Celery worker, or too long ago."""
    result: ResultMeta | None
    """None: the app stores no result, or it expired."""
    letters: tuple[DescribedLetter, ...] = ()
    """The newest first."""


class DeviceDescription(_Frozen):
    """One device, and what runs on it."""

    device: DeviceStatus
    tasks: tuple[TaskRecord, ...] = ()


class NodeDescription(_Frozen):
    """One node, its devices, and what runs on it."""

    node: NodeStatus
    devices: tuple[DeviceStatus, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()


def describe_task(source: Source, task_id: str) -> TaskDescription:
    """One task, wherever it ran, or lies as a dead letter.

    Raises:
        CliError: nothing knows it (exit code 1), or nobody answers (69).
    """
    found, letters = source.task(task_id), _letters(source, task_id)
    if found is None and not letters:
        raise CliError(
            f"no task {task_id!r}: no bridge, no stored result and no dead letter knows it; it waits on the broker, "
            "ended too long ago, or never was",
            EXIT_FAILED,
        )
    if found is None:
        return TaskDescription(task_id=task_id, state=None, run=None, result=None, letters=letters)
    return TaskDescription(
        task_id=task_id, state=found.state, run=found.run, result=found.result, letters=letters
    )


def describe_device(source: Source, uuid: str) -> DeviceDescription:
    """One device.

    Raises:
        CliError: there is none (exit code 1), or nobody answers (69).
    """
    device = _one([one for one in source.devices().devices if one.uuid == uuid], "device", uuid)
    tasks = tuple(task for task in _running(source) if uuid in task.device_uuids)
    return DeviceDescription(device=device, tasks=tasks)


def describe_node(source: Source, name: str) -> NodeDescription:
    """One node, by its name or id.

    Raises:
        CliError: there is none, or several have the name (exit code 1), or nobody answers (69).
    """
    node = _one([one for one in source.nodes().nodes if name in (one.name, one.node_id)], "node", name)
    devices = tuple(one for one in source.devices().devices if one.node_id == node.node_id)
    tasks = tuple(task for task in _running(source) if task.node_id == node.node_id)
    return NodeDescription(node=node, devices=devices, tasks=tasks)


def _one(found: list[T], what: str, name: str) -> T:
    if not found:
        raise CliError(f"no {what} {name!r}", EXIT_FAILED)
    if len(found) > 1:
        ids = ", ".join(sorted(one.node_id for one in found))
        raise CliError(f"{len(found)} {what}s are called {name!r}; name one by its id: {ids}", EXIT_FAILED)
    return found[0]


def _running(source: Source) -> tuple[TaskRecord, ...]:
    return source.tasks(state=TaskState.RUNNING, queue=None, limit=RUNNING_MOST).tasks


def _letters(source: Source, task_id: str) -> tuple[DescribedLetter, ...]:
    found: list[Letter] = []
    for state in LetterState:
        chosen = LetterFilter(task_id=task_id, state=state)
        found += source.dead_letters(chosen, limit=LETTERS_MOST, cursor=None).letters
    found.sort(key=lambda letter: (letter.parked_at, letter.id), reverse=True)
    return tuple(
        DescribedLetter(**letter.model_dump(), history=_history(source, letter.id)) for letter in found
    )


def _history(source: Source, letter_id: str) -> tuple[Attempt, ...] | None:
    try:
        detail = source.dead_letter(letter_id)
    except AnswerError as error:
        if error.status in NOT_FOR_VIEWERS or error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
    return None if detail is None else detail.history
