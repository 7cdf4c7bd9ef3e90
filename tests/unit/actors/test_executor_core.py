"""An executor's process: loaded like a prefork child, on its devices, and left with Celery's signals."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from celeray.actors.executor_core import ENDED, LEFT
from celeray.actors.journal import read_journal, take_journal
from celeray.actors.simulated import SimulatedDevices
from celeray.scheduler.cluster import (
    AppSpec,
    ExecutorSpec,
    Progress,
    RunEnded,
    RunOutOfMemory,
    RunReturned,
    RunSpec,
)
from tests.unit.actors.core_process import ROOT, CoreProcess, core_process
from tests.unit.actors.test_memory_limits import TORCH

APPS = ROOT / "tests" / "apps"


def spec(*devices: str, app: str = "simple", working_dir: Path = APPS, **fields: Any) -> ExecutorSpec:
    return ExecutorSpec(
        executor_id="e1",
        executor_class="c",
        node_id="n",
        device_uuids=devices,
        share=0.5,
        memory_mib=600,
        app=AppSpec(app, str(working_dir), "bridge@test", include=("more_tasks",) if "more" in app else ()),
        **fields,
    )


def run(core: CoreProcess, name: str, *args: Any, limit: float | None = None) -> bytes:
    answer: bytes = core.call("run", [run_spec(7, name, *args, limit=limit)])
    return answer


def run_spec(run_id: int, name: str, *args: Any, limit: float | None = None) -> RunSpec:
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    request = {"id": "t", "task": name, "delivery_info": {}, "ignore_result": True}
    payload = pickle.dumps((name, "t", request, body.encode(), "application/json", "utf-8"))
    return RunSpec(run_id, "t", payload, limit)


def ended(answer: bytes) -> tuple[RunEnded, tuple[int, Any, Any]]:
    assert answer[:1] == ENDED
    (event,) = pickle.loads(answer[1:])
    return event, pickle.loads(event.payload)


def where(core: CoreProcess) -> dict[str, Any]:
    _, (_, text, _) = ended(run(core, "simple.where"))
    seen: dict[str, Any] = ast.literal_eval(text)
    return seen


def test_it_runs_tasks_like_a_prefork_child(tmp_path: Path) -> None:
    left = tmp_path / "shut down"
    with core_process(spec("GPU-a", "GPU-b", cpus=3), env={"SIMPLE_SHUTDOWN_FILE": str(left)}) as core:
        core.call("load")

        event, outcome = ended(run(core, "simple.add", 2, 3))
        assert outcome[:2] == (0, "5")
        assert (event.executor_id, event.run_id) == ("e1", 7)
        assert event.rss_mib is not None
        assert event.rss_mib > 10
        seen = where(core)
        assert seen["cuda"] == "GPU-a,GPU-b"
        assert seen["omp"] == "3"
        assert seen["cwd"] == str(APPS)
        assert seen["hostname"] == "bridge@test"
        assert seen["initialised"] == 1
        assert seen["pid"] == core.pid

        core.call("shutdown")
    assert left.read_text() == "0"


def test_without_cpus_in_the_request_nothing_limits_numeric_libraries() -> None:
    with core_process(spec(), env={"OMP_NUM_THREADS": "1"}) as core:
        core.call("load")

        assert where(core)["omp"] is None
        assert where(core)["cuda"] == ""


@pytest.mark.parametrize("env_vars", [{"OMP_NUM_THREADS": "1"}, {}])
def test_what_the_runtime_env_says_of_threads_stays(env_vars: dict[str, str]) -> None:
    given = spec(cpus=2, runtime_env={"env_vars": env_vars})
    with core_process(given, env={"OMP_NUM_THREADS": "1"}) as core:
        core.call("load")

        assert where(core)["omp"] == env_vars.get("OMP_NUM_THREADS", "2")


def test_rays_working_dir_is_left_alone() -> None:
    given = spec(app="tests.apps.simple", runtime_env={"working_dir": "gcs://package.zip"})
    with core_process(given) as core:
        core.call("load")

        assert where(core)["cwd"] == str(ROOT)


def test_modules_that_the_worker_includes_are_imported(tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text("from celery import Celery\napp = Celery('more', broker='memory://')\n")
    (tmp_path / "more_tasks.py").write_text(
        "from more import app\n@app.task(name='more')\ndef more():\n  return 1\n"
    )
    with core_process(spec(app="more", working_dir=tmp_path)) as core:
        core.call("load")

        assert ended(run(core, "more"))[1][1] == "1"


def test_an_app_that_cannot_be_imported_says_so() -> None:
    with core_process(spec(app="no_such_app")) as core, pytest.raises(RuntimeError, match="no_such_app"):
        core.call("load")


def test_a_task_that_exits_is_told_apart() -> None:
    with core_process(spec()) as core:
        core.call("load")

        answer = run(core, "simple.leave", 4)

        assert answer[:1] == LEFT
        assert "exitcode 4" in answer[1:].decode()


def test_the_tasks_of_a_batch_end_each_for_itself() -> None:
    with core_process(spec()) as core:
        core.call("load")
        core.be_patient()
        batch = [
            run_spec(1, "simple.add", 1, 2),
            run_spec(2, "simple.fail", "no"),
            run_spec(3, "simple.unreadable"),
            run_spec(4, "simple.add", 3, 4),
        ]
        answer = core.call("run", batch)

        assert answer[:1] == ENDED
        events = pickle.loads(answer[1:])
        assert [event.run_id for event in events] == [1, 2, 3, 4]
        # The third names a class of the app, which only the bridge has at hand.
        outcomes = [pickle.loads(events[at].payload) for at in (0, 1, 3)]
        assert [failed for failed, _, _ in outcomes] == [0, 1, 0]
        assert [outcomes[0][1], outcomes[2][1]] == ["3", "7"]
        assert b"UnreadableError" in events[2].payload
        assert all(event.seconds > 0 for event in events)
        assert [event.rss_mib is not None for event in events] == [False, False, False, True]


LIMITED = """
import os
from celery import Celery
app = Celery('limited', broker='memory://')
@app.task(name='limited')
def limited():
    import torch
    torch.cuda.init()
    return torch.cuda.fractions, os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION')
"""


@pytest.mark.parametrize("limited", [True, False])
def test_frameworks_are_kept_within_the_reservation_from_their_first_allocation(
    tmp_path: Path, limited: bool
) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "limited.py").write_text(LIMITED)
    given = spec("GPU-a", app="limited", working_dir=tmp_path, limit_vram=limited)
    with core_process(given) as core:
        core.call("load")
        fractions, share = ast.literal_eval(ended(run(core, "limited"))[1][1])
        assert fractions == (pytest.approx({0: 600 / 24576}) if limited else {})
        assert share == ("0.5000" if limited else None)


def test_a_batch_ends_where_gpu_memory_runs_out(tmp_path: Path) -> None:
    SimulatedDevices("1x1GiB", "n", tmp_path)
    uuid = "GPU-sim-n-0"
    with core_process(spec(uuid, limit_vram=True), tmp_path) as core:
        core.call("load")
        core.be_patient()
        batch = [
            run_spec(1, "simple.add", 1, 2),
            run_spec(2, "simple.hold", 601)._replace(may_place_again=True),
            run_spec(3, "simple.add", 3, 4),
        ]
        answer = core.call("run", batch)
        events = pickle.loads(answer[1:])
        assert [type(event) for event in events] == [RunEnded, RunOutOfMemory, RunReturned]
        assert [event.run_id for event in events] == [1, 2, 3]
        assert events[1].detail.startswith("OutOfGpuMemoryError: 601 MiB wanted")
        journal = take_journal(core.pid, "e1")
        assert journal is not None
        ends, progress = read_journal("e1", journal)
        assert [end.run_id for end in ends] == [1]
        assert progress == Progress(None, (2,)), "a process that dies now is not this run's fault"


def test_alone_it_says_so_or_fails(tmp_path: Path) -> None:
    SimulatedDevices("1x1GiB", "n", tmp_path)
    with core_process(spec("GPU-sim-n-0", limit_vram=True), tmp_path) as core:
        core.call("load")
        hold = run_spec(1, "simple.hold", 601)
        answer = core.call("run", [hold._replace(may_place_again=True)])
        (event,) = pickle.loads(answer[1:])
        assert (type(event), event.executor_id, event.run_id) == (RunOutOfMemory, "e1", 1)
        _, (failed, _, _) = ended(core.call("run", [hold]))
        assert failed == 1


def test_a_batch_that_takes_too_long_gives_back_what_it_has_not_begun() -> None:
    with core_process(spec()) as core:
        core.call("load")
        answer = core.call(
            "run", [run_spec(1, "simple.sleep", 0.15), *(run_spec(i, "simple.noop") for i in (2, 3))]
        )

        events = pickle.loads(answer[1:])
        assert [type(event) for event in events] == [RunEnded, RunReturned, RunReturned]
        assert [event.run_id for event in events] == [1, 2, 3]


@pytest.mark.parametrize(("last", "running"), [("simple.leave", 3), ("simple.die", 3)])
def test_a_task_that_ends_the_process_leaves_how_far_the_batch_was(
    last: str, running: int, tmp_path: Path
) -> None:
    batch = [
        run_spec(1, "simple.add", 1, 2),
        run_spec(2, "simple.noop"),
        run_spec(3, last, *([4] if "leave" in last else [])),
        run_spec(4, "simple.noop"),
    ]
    with core_process(spec(), env={"TMPDIR": str(tmp_path)}, ends_with=-9 if "die" in last else 0) as core:
        core.call("load")
        core.be_patient()
        if "die" in last:
            with pytest.raises(EOFError):
                core.call("run", batch)
        else:
            assert core.call("run", batch)[:1] == LEFT
        journal = take_journal(core.pid, "e1", tmp_path / f"celeray-{os.getuid()}" / "journals")

    assert journal is not None
    found, progress = read_journal("e1", journal)
    assert [event.run_id for event in found] == [1, 2]
    assert pickle.loads(found[0].payload)[:2] == (0, "3")
    assert progress == Progress(running=running), "and what comes after it never began"


def test_its_reservation_is_held_from_the_first_task_on(tmp_path: Path) -> None:
    devices = SimulatedDevices("2x1GiB", "n" * 56, tmp_path)
    used = lambda: [device.used_mib for device in devices.read()]  # noqa: E731
    first = devices.devices[0].uuid
    with core_process(spec(first), tmp_path) as core:
        core.call("load")
        assert used() == [0, 0]
        run(core, "simple.noop")
        assert used() == [600, 0]
        run(core, "simple.hold", 300)
        run(core, "simple.noop")
        assert used() == [300, 0], "what a task says stays"
    assert used() == [0, 0]


def test_an_executor_that_never_loaded_has_nobody_to_tell() -> None:
    with core_process(spec()) as core:
        core.call("shutdown")
