"""The VRAM peak of a run, from real executors on a fake NVML library."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.cluster import ExecutorSpec, RunEnded, RunSpec
from tests.fake_nvml import FakeDevice
from tests.integration.actors.conftest import A, B
from tests.integration.actors.live import LiveCluster, payload, until
from tests.integration.conftest import AddedNode, RayTestCluster


def peak(live: LiveCluster, spec: ExecutorSpec, task: str, *args: Any) -> tuple[int | None, str | None]:
    """Of one run, and how it is known."""
    run_id = live.send(spec, task, *args)
    ended = live.wait(RunEnded, lambda event: event.run_id == run_id)
    return ended.peak_mib, ended.attribution


def test_by_pid_it_is_the_runs_own(live: LiveCluster, gpu_node: AddedNode) -> None:
    spec = live.spec(gpu_node.node_id, A, B, peak_interval_s=0.02)
    neighbour = live.spec(gpu_node.node_id, B, peak_interval_s=0.02)
    live.start(spec)
    live.start(neighbour)

    assert peak(live, spec, "simple.noop") == (None, None)
    until(lambda: peak(live, neighbour, "simple.allocate", B, 9000) == (9000, "pid"), "the end is looked at")
    until(lambda: peak(live, spec, "simple.allocate", B, 3000) == (3000, "pid"), "the end is looked at")
    until(
        lambda: peak(live, spec, "simple.spike", A, 7000, 0.5) == (7000, "pid"),
        "a child's memory is seen, though it is gone at the end",
    )
    until(lambda: peak(live, spec, "simple.sleep", 0.1) == (3000, "pid"), "the run after it is its own")
    for one in (spec, neighbour):
        live.cluster.stop_executor(one.executor_id, force=True)
        live.ended(one)


def test_all_runs_of_a_batch_have_the_same(live: LiveCluster, gpu_node: AddedNode) -> None:
    spec = live.spec(gpu_node.node_id, A, peak_interval_s=0.02)
    live.start(spec)
    until(lambda: peak(live, spec, "simple.allocate", A, 2000)[0] == 2000, "it holds memory")

    def of_a_batch() -> set[int | None]:
        ids = [next(live._ids) for _ in range(3)]
        runs = [RunSpec(run_id, f"task-{run_id}", payload("simple.noop")) for run_id in ids]
        live.run_batch(spec, *runs)
        return {
            live.wait(RunEnded, lambda event, run_id=run_id: event.run_id == run_id).peak_mib
            for run_id in ids
        }

    until(lambda: of_a_batch() == {2000}, "a batch's end is looked at")
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


def test_nobody_looks_where_nobody_wants_to_know(live: LiveCluster, gpu_node: AddedNode) -> None:
    spec = live.spec(gpu_node.node_id, A, peak_interval_s=0.0)
    live.start(spec)

    assert peak(live, spec, "simple.allocate", A, 3000) == (None, None)
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)


@pytest.mark.slow
def test_in_a_container_it_is_what_came_to_the_device(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    uuid = "GPU-dddddddd-0000-0000-0000-000000000004"
    node = ray_cluster.add_node([FakeDevice(uuid, used_mib=700)], env={"CELERAY_PIDS_VISIBLE": "0"})
    reading = live.reading(node.node_id, lambda found: len(found.devices) == 1)
    assert not reading.pids_visible
    spec = live.spec(node.node_id, uuid, peak_interval_s=0.02)
    live.start(spec)

    until(
        lambda: peak(live, spec, "simple.allocate", uuid, 3000) == (3000, "reservation"),
        "what the executor took is told apart from what was there",
    )
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)
    ray_cluster.remove_node(node)
