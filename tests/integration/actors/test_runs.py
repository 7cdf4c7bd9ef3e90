"""Runs in warm executors: outcomes, limits, and how an executor ends."""

from __future__ import annotations

import ast
import os
import signal
from typing import Any

import psutil
from celery.exceptions import SoftTimeLimitExceeded

from celeray.scheduler.cluster import ClusterDown, EndCause, Progress, RunEnded, RunSpec
from tests.integration.actors.conftest import A
from tests.integration.actors.live import APPS, LiveCluster, OnceOnly, payload, until
from tests.integration.conftest import AddedNode, RayTestCluster


def where(live: LiveCluster, spec: Any) -> dict[str, Any]:
    failed, text, _ = live.run(spec, "simple.where")
    assert not failed
    seen: dict[str, Any] = ast.literal_eval(text)
    return seen


def alive(pid: int) -> bool:
    """A zombie is dead; the raylet buries it later."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_warm_executor_runs_one_task_after_another_in_one_process(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    started = live.start(spec)

    assert live.run(spec, "simple.add", 2, 3)[:2] == (0, "5")
    first, second = where(live, spec), where(live, spec)

    assert first == second
    assert first["pid"] == started.pid
    assert first["hostname"] == "bridge@test"
    assert first["cwd"] == str(APPS)
    live.cluster.stop_executor(spec.executor_id, force=False)
    end = live.ended(spec)
    assert end.cause is EndCause.STOPPED
    assert not alive(started.pid)


def test_without_devices_a_task_sees_none_and_no_thread_limit(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    live.start(spec)

    seen = where(live, spec)

    assert seen["cuda"] == ""
    assert seen["omp"] is None
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


def test_failures_come_back_as_exceptions(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    spec = live.spec(ray_cluster.head_id)
    live.start(spec)

    failed, info, _ = live.run(spec, "simple.fail", "why")
    assert failed
    assert info.type is ValueError
    assert "why" in info.traceback
    failed, info, _ = live.run(spec, "simple.unreadable")
    assert failed
    assert "UnreadableError" in info.traceback
    failed, info, _ = live.run(spec, "simple.exhaust")
    assert failed
    assert info.type is MemoryError
    failed, info, _ = live.run(spec, "simple.unknown")
    assert failed
    assert "simple.unknown" in info.traceback

    assert live.run(spec, "simple.add", 1, 1)[1] == "2", "the executor goes on"
    ended = [event for event in live.events if isinstance(event, RunEnded)]
    assert all(event.rss_mib and event.rss_mib > 10 for event in ended)
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


def test_a_soft_limit_and_its_signal_reach_the_task_alone(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    started = live.start(spec)

    assert live.run(spec, "simple.sleep", 60, soft=0.2)[1] == "'soft limit'"
    failed, info, _ = live.run(spec, "simple.stubborn", 60, soft=0.2)
    assert failed
    assert info.type is SoftTimeLimitExceeded

    live.cluster.signal_executor(spec.executor_id, signal.SIGUSR1)
    run_id = live.send(spec, "simple.sleep", 60)
    # The signal may come before the task begins, and then does nothing: so it is sent until it was heard.
    until(lambda: _signalled(live, spec, run_id), "the run ends by SIGUSR1")
    assert live.outcome(run_id)[1] == "'soft limit'"
    assert live.run(spec, "simple.add", 1, 1, soft=30.0)[1] == "2"
    assert where(live, spec)["pid"] == started.pid
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


def _signalled(live: LiveCluster, spec: Any, run_id: int) -> bool:
    live.cluster.signal_executor(spec.executor_id, signal.SIGUSR1)
    return any(isinstance(event, RunEnded) and event.run_id == run_id for event in live.events)


def test_force_ends_an_executor_in_its_run_and_then_its_process_is_gone(
    live: LiveCluster, gpu_node: AddedNode
) -> None:
    spec = live.spec(gpu_node.node_id, A)
    started = live.start(spec)
    run_id = live.send(spec, "simple.sleep", 300)

    live.cluster.stop_executor(spec.executor_id, force=True)
    end = live.ended(spec)

    assert end.cause is EndCause.STOPPED
    assert not alive(started.pid)
    assert not [event for event in live.events if isinstance(event, RunEnded) and event.run_id == run_id]
    # A command for an executor that is gone is ignored.
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.send(spec, "simple.noop")


def test_the_death_of_an_idle_and_of_a_busy_executor_is_told_once(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    idle, busy = live.spec(ray_cluster.head_id), live.spec(ray_cluster.head_id)
    started = live.start(idle)
    live.start(busy)

    os.kill(started.pid, signal.SIGKILL)
    live.send(busy, "simple.die")

    for spec in (idle, busy):
        end = live.ended(spec)
        assert end.cause is EndCause.DIED
        assert "died" in end.detail
        assert "\x1b" not in end.detail
    # Everything that could tell a second time has run by the end of another executor.
    last = live.spec(ray_cluster.head_id)
    live.start(last)
    live.cluster.stop_executor(last.executor_id, force=True)
    live.ended(last)
    assert (live.ends(idle), live.ends(busy)) == (1, 1)


def test_a_task_that_exits_ends_its_executor_as_celery_words_it(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    live.start(spec)

    run_id = live.send(spec, "simple.leave", 3)
    end = live.ended(spec)

    assert end.cause is EndCause.DIED
    assert end.detail.startswith("Worker exited prematurely: exitcode 3")
    assert not [event for event in live.events if isinstance(event, RunEnded) and event.run_id == run_id]


def test_an_app_that_cannot_be_loaded_says_why(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    from celeray.scheduler.cluster import AppSpec

    spec = live.spec(ray_cluster.head_id, app=AppSpec("no_such_app", str(APPS), "bridge@test"))
    bad_env = live.spec(ray_cluster.head_id, runtime_env={"env_vars": {"A": 1}})
    no_folder = live.spec(ray_cluster.head_id, runtime_env={"working_dir": "/no/such/folder"})
    for each in (spec, bad_env, no_folder):
        live.cluster.start_executor(each)

    for each, reason in ((spec, "no_such_app"), (bad_env, "env_vars"), (no_folder, "/no/such/folder")):
        end = live.ended(each)
        assert end.cause is EndCause.START_FAILED
        assert reason in end.detail


def test_a_run_that_cannot_be_sent_ends_its_executor_alone(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    warm, fresh = live.spec(ray_cluster.head_id), live.spec(ray_cluster.head_id, fresh=True)
    other = live.spec(ray_cluster.head_id)
    started = live.start(warm)
    live.start(other)
    live.cluster.start_executor(fresh)
    place = len(live.events)

    for spec, run_id in ((warm, 7001), (fresh, 7002)):
        payload: Any = OnceOnly()
        live.cluster.run(spec.executor_id, RunSpec(run_id, "t", payload))

    # The driver looks into what it sends to a fresh executor only; a warm one finds no bytes in it.
    for spec, cause, detail in (
        (warm, EndCause.DIED, "a bytes-like object is required"),
        (fresh, EndCause.START_FAILED, "pickled a second time"),
    ):
        end = live.ended(spec)
        assert end.cause is cause
        assert detail in end.detail
    assert not alive(started.pid)
    assert live.run(other, "simple.add", 2, 3)[:2] == (0, "5")
    live.cluster.stop_executor(other.executor_id, force=True)
    live.ended(other)
    assert not [event for event in live.events[place:] if isinstance(event, ClusterDown)]
    assert (live.ends(warm), live.ends(fresh)) == (1, 1)


def test_environment_variables_of_the_runtime_env_win(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    spec = live.spec(ray_cluster.head_id, cpus=2, runtime_env={"env_vars": {"OMP_NUM_THREADS": "7"}})
    live.start(spec)

    assert where(live, spec)["omp"] == "7"
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


def test_a_process_that_lingers_after_its_end_is_killed(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    started = live.start(spec)
    live.run(spec, "simple.linger")

    live.cluster.stop_executor(spec.executor_id, force=False)

    assert live.ended(spec).cause is EndCause.STOPPED
    assert not alive(started.pid)


def test_after_a_crash_in_a_batch_it_is_known_who_ended_who_ran_and_who_never_began(
    live: LiveCluster, ray_cluster: RayTestCluster
) -> None:
    spec = live.spec(ray_cluster.head_id)
    live.start(spec)
    tasks = [("simple.add", 1, 2), ("simple.noop",), ("simple.die",), ("simple.noop",)]
    runs = [RunSpec(8000 + at, "t", payload(*task)) for at, task in enumerate(tasks)]
    live.run_batch(spec, *runs)

    end = live.ended(spec)

    assert end.cause is EndCause.DIED
    assert end.progress == Progress(running=8002)
    assert live.outcome(8000)[:2] == (0, "3")
    assert live.outcome(8001)[:2] == (0, "None")
    told = [e.run_id for e in live.events if isinstance(e, RunEnded) and e.executor_id == spec.executor_id]
    assert told == [8000, 8001]
