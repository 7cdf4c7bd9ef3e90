"""What `celeray describe` puts together, and how it is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celeray.api.results import ResultMeta
from celeray.api.task_detail import TaskDetail, combined
from celeray.cli import describe, main
from celeray.cli.describe import _run_parts
from celeray.cli.descriptions import describe_device, describe_node, describe_task
from celeray.cli.lazy import CliError
from celeray.cli.sources import AnswerError
from celeray.scheduler.letters.record import Letter, LetterState
from celeray.scheduler.letters.store import LetterFilter, LetterPage
from celeray.scheduler.overview import DeviceList, NodeList, TaskPage
from celeray.scheduler.status import OutOfMemoryRecord, TaskRecord, TaskState
from tests.status_samples import NOW, device, node, record


def letter(letter_id: str, **changes: Any) -> Letter:
    values: dict[str, Any] = {
        "id": letter_id,
        "task_id": "t1",
        "task": "film.generate_image",
        "queue": "gpu.generation",
        "priority": 5,
        "reason": "failed",
        "detail": "ValueError: x",
        "parked_at": NOW,
        "begun": 0,
        "size": 100,
    }
    return Letter(**values | changes)


class Known:
    """A source of these values; letters are given to operators only, as by REST without a token."""

    def __init__(self, *letters: Letter, tasks: tuple[TaskRecord, ...] = (), refusal: int = 401) -> None:
        self._letters = letters
        self._tasks = tasks
        self._refusal = refusal

    def task(self, task_id: str) -> TaskDetail | None:
        run = next((one for one in self._tasks if one.task_id == task_id), None)
        return combined(task_id, run, None)

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage:
        return TaskPage(tasks=tuple(one for one in self._tasks if state in (None, one.state)))

    def devices(self) -> DeviceList:
        return DeviceList(devices=(device(), device("GPU-b", node_id="n2", node_name="node-2")))

    def nodes(self) -> NodeList:
        return NodeList(nodes=(node(), node("n2", devices=("GPU-b",)), node("n3", name="node-2")))

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage:
        found = tuple(one for one in self._letters if chosen.matches(one))
        return LetterPage(letters=found, total=len(found), by_reason={}, by_queue={})

    def dead_letter(self, letter_id: str) -> Any:
        raise AnswerError("refused", 1, self._refusal)


RUNNING = record("t1", state=TaskState.RUNNING, ended_at=None, run_s=None)
ELSEWHERE = record(
    "t2", state=TaskState.RUNNING, ended_at=None, run_s=None, node_id="n2", device_uuids=("GPU-b",)
)


def source(*letters: Letter, **options: Any) -> Any:
    return Known(*letters, **options)


def test_a_task_comes_with_its_letters_of_every_state_the_newest_first() -> None:
    letters = [
        letter("old", parked_at=NOW - 5),
        letter("new", state=LetterState.SCHEDULED),
        letter("other", task_id="t9"),
    ]
    found = describe_task(source(*letters, tasks=(RUNNING,)), "t1")

    assert (found.state, found.run) == (TaskState.RUNNING, RUNNING)
    assert [one.id for one in found.letters] == ["new", "old"]
    assert [one.history for one in found.letters] == [None, None], "a viewer has no attempts"


def test_a_task_that_only_a_letter_knows() -> None:
    found = describe_task(source(letter("one")), "t1")

    assert (found.state, found.run, found.result, len(found.letters)) == (None, None, None, 1)


def test_what_the_api_refuses_for_another_reason_is_told() -> None:
    with pytest.raises(AnswerError, match="refused"):
        describe_task(source(letter("one"), refusal=500), "t1")


def test_what_is_not_there() -> None:
    for ask in (describe_task, describe_device, describe_node):
        with pytest.raises(CliError, match="'nothing'") as error:
            ask(source(), "nothing")
        assert error.value.exit_code == 1


def test_a_device_and_a_node_come_with_what_runs_there() -> None:
    known = source(tasks=(RUNNING, ELSEWHERE, record("t3")))

    assert [one.task_id for one in describe_device(known, "GPU-b").tasks] == ["t2"]
    found = describe_node(known, "node-1")
    assert ([one.uuid for one in found.devices], [one.task_id for one in found.tasks]) == (["GPU-a"], ["t1"])


def test_of_two_nodes_with_one_name_the_id_is_asked_for() -> None:
    with pytest.raises(CliError, match="n2, n3") as error:
        describe_node(source(), "node-2")
    assert error.value.exit_code == 1
    assert describe_node(source(), "n3").node.node_id == "n3"


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({}, "asked", "1 device(s) with 12.0 GiB"),
        ({"vram_mib": None, "gpus": 2}, "asked", "2 device(s) whole"),
        ({"raised_mib": 18432}, "asked", "1 device(s) with 12.0 GiB, 18.0 GiB since it ran out"),
        ({"gpus": 0, "vram_mib": None}, "asked", "no device"),
        (
            {"reserved_mib": 12288, "peak_mib": 8192},
            "VRAM",
            "12.0 GiB reserved a device, 8.0 GiB at its peak",
        ),
        ({"warm": False}, "executor", "e1, new, of the class film.generate_image"),
        ({"reason": "lease_lost", "state": TaskState.LOST}, "why", "lease_lost"),
    ],
)
def test_lines_of_a_run(changes: dict[str, Any], name: str, text: str) -> None:
    assert _run_parts(record(**changes), NOW)[name] == text


def test_a_task_that_waits_says_for_what_and_how_long() -> None:
    waiting = {"state": TaskState.WAITING, "started_at": None, "ended_at": None, "wait_s": None}
    parts = _run_parts(record(**waiting, reason="vram"), NOW)

    assert (parts["waits"], parts["why"], parts["waited"]) == ("vram", None, "10.0s")
    assert (parts["started"], parts["ran"]) == (None, None)
    assert _run_parts(record(**waiting), NOW)["waits"] == "for its turn"


def test_a_run_that_ran_out_of_gpu_memory_says_where() -> None:
    ran_out = (OutOfMemoryRecord(at=NOW, reserved_mib=8192, node_name="node-1"),)

    assert _run_parts(record(out_of_memory=ran_out), NOW)["ran out"].startswith("with 8.0 GiB on node-1 at ")


def shown(monkeypatch: pytest.MonkeyPatch, known: Any, *args: str) -> Result:
    monkeypatch.setattr(describe, "open_source", lambda **_: known)
    return CliRunner().invoke(main, ["describe", *args])


def test_tables_leave_out_what_is_not_known_and_steer_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    known = source(letter("one", detail="bad \x1b[31mred"), tasks=(RUNNING,))
    text = shown(monkeypatch, known, "task", "t1").output

    assert "state      running\n" in text
    assert "node       node-1\n" in text
    assert "failed: bad ?[31mred" in text
    assert "operator token" in text
    assert "result" not in text
    assert "None" not in text


def test_a_device_that_is_wrong_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = device(
        "GPU-b",
        unusable="unhealthy: XID 79",
        xids={79: 2},
        leaking_mib=512,
        leaking_pids=(7,),
        remedy="undrain",
    )
    known = source()
    known.devices = lambda: DeviceList(devices=(bad,))
    text = shown(monkeypatch, known, "device", "GPU-b").output

    for part in ("unhealthy: XID 79", "79 (2 times)", "0.5 GiB of 7", "undrain", "no tasks run there"):
        assert part in text


def test_a_node_shows_how_its_devices_are_linked_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    linked = node(devices=("GPU-b", "GPU-a"), links=(("X", "NV12"), ("NV12", "X")))
    known = source()
    known.devices = lambda: DeviceList(devices=(device(), device("GPU-b", index=3)))
    known.nodes = lambda: NodeList(nodes=(linked,))
    lines = shown(monkeypatch, known, "node", "node-1").output.splitlines()

    at = lines.index("LINKS  3     0")
    assert lines[at + 1 : at + 3] == ["3      X     NV12", "0      NV12  X"]
    known.nodes = lambda: NodeList(nodes=(node(),))
    assert "LINKS" not in shown(monkeypatch, known, "node", "node-1").output


def test_a_stored_result_alone_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    known = source()
    meta = ResultMeta(status="FAILURE", exception="ValueError", worker="cpu@h")
    known.task = lambda task_id: combined(task_id, None, meta)

    assert "FAILURE ValueError" in shown(monkeypatch, known, "task", "t1").output
    found = json.loads(shown(monkeypatch, known, "task", "t1", "-o", "json").output)
    assert (found["state"], found["run"], found["letters"]) == ("failed", None, [])
