"""Devices: what is leased, what an executor sees of it, and what readings show."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any

import pytest

from celeray.scheduler.cluster import EndCause, NodeLost, NodeRead, RunStarted
from celeray.scheduler.model import DeviceReading, Health, NodeReading
from tests.fake_nvml import FakeDevice
from tests.integration.actors.conftest import A, B
from tests.integration.actors.live import APPS, LiveCluster
from tests.integration.conftest import AddedNode, RayTestCluster


def device(reading: NodeReading, uuid: str) -> DeviceReading:
    return next(device for device in reading.devices if device.uuid == uuid)


def where(live: LiveCluster, spec: Any) -> dict[str, Any]:
    _, text, _ = live.run(spec, "simple.where")
    seen: dict[str, Any] = ast.literal_eval(text)
    return seen


def test_a_node_is_read_with_its_leased_devices(live: LiveCluster, gpu_node: AddedNode) -> None:
    reading = live.reading(gpu_node.node_id)

    assert [item.uuid for item in reading.devices] == [A, B]
    assert device(reading, A).total_mib == 40960
    assert device(reading, B).name == "NVIDIA A10"
    assert reading.cpus_milli == 8000
    assert reading.memory_mib > 100
    assert reading.driver_version == "550.54.15"
    assert not reading.simulated
    assert reading.unleased == 0
    assert reading.closeness == ((0, 10), (10, 0)), "NVML tells of a CPU socket each"
    first = live.wait(NodeRead, lambda e: e.reading.node_id == gpu_node.node_id).reading
    assert (first.devices, first.unleased, first.cpus_milli) == ((), 2, 8000), "told before they are leased"


def test_a_node_without_devices_is_read_too(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    reading = live.reading(ray_cluster.head_id)

    assert reading.devices == ()
    assert reading.cpus_milli == 2000


def test_an_executor_sees_exactly_its_devices_and_holds_rays_share_of_them(
    live: LiveCluster, gpu_node: AddedNode
) -> None:
    first = live.spec(gpu_node.node_id, A, share=0.75)
    second = live.spec(gpu_node.node_id, B, A, share=0.6)
    live.start(first)
    live.start(second)

    assert where(live, first)["cuda"] == A
    assert where(live, second)["cuda"] == f"{B},{A}"

    # Ray's own account: 0.6 more do not fit where 0.75 are given out, until they come back.
    third = live.spec(gpu_node.node_id, A, share=0.6)
    live.cluster.start_executor(third)
    live.cluster.stop_executor(first.executor_id, force=True)
    live.ended(first)
    assert where(live, third)["cuda"] == A
    place = {getattr(event, "executor_id", None): index for index, event in enumerate(live.events)}
    first_end = next(i for i, e in enumerate(live.events) if e == live.ended(first))
    assert place[third.executor_id] > first_end
    for spec in (second, third):
        live.cluster.stop_executor(spec.executor_id, force=True)
        live.ended(spec)


def test_memory_that_a_task_takes_is_seen_with_its_pid(live: LiveCluster, gpu_node: AddedNode) -> None:
    spec = live.spec(gpu_node.node_id, B)
    started = live.start(spec)

    live.run(spec, "simple.allocate", B, 3000)
    live.cluster.read_node(gpu_node.node_id)
    reading = live.reading(gpu_node.node_id, lambda r: device(r, B).used_mib == 3000)

    assert [(p.pid, p.used_mib) for p in device(reading, B).processes or ()] == [(started.pid, 3000)]
    assert device(reading, A).used_mib == 0
    live.cluster.stop_executor(spec.executor_id, force=True)
    live.ended(spec)
    live.reading(gpu_node.node_id, lambda r: device(r, B).used_mib == 0)


def test_a_device_that_is_no_longer_there_ends_the_executor_at_once(
    live: LiveCluster, gpu_node: AddedNode
) -> None:
    spec = live.spec(gpu_node.node_id, "GPU-unknown")
    live.cluster.start_executor(spec)

    end = live.ended(spec)
    assert end.cause is EndCause.NODE_LOST
    assert "GPU-unknown" in end.detail


def test_a_fresh_executor_is_one_process_for_one_task(live: LiveCluster, gpu_node: AddedNode) -> None:
    spec = live.spec(gpu_node.node_id, A, fresh=True, share=0.5)
    live.cluster.start_executor(spec)

    seen = where(live, spec)
    started = live.wait(RunStarted, lambda e: e.executor_id == spec.executor_id)
    end = live.ended(spec)

    assert seen["cuda"] == A
    assert seen["pid"] == started.pid
    assert seen["cwd"] == str(APPS)
    assert end.cause is EndCause.STOPPED


def test_fresh_executors_end_in_every_way(live: LiveCluster, gpu_node: AddedNode) -> None:
    killed, unused, left, died = (live.spec(gpu_node.node_id, A, fresh=True, share=0.2) for _ in range(4))
    broken = live.spec(gpu_node.node_id, fresh=True, runtime_env={"env_vars": {"CELERAY_CONFIG": "/no/file"}})
    for spec in (killed, unused, left, died, broken):
        live.cluster.start_executor(spec)

    live.send(killed, "simple.sleep", 300)
    live.wait(RunStarted, lambda e: e.executor_id == killed.executor_id)
    live.cluster.stop_executor(killed.executor_id, force=True)
    live.cluster.stop_executor(unused.executor_id, force=False)
    live.send(left, "simple.leave", 2)
    live.send(died, "simple.die")
    live.send(broken, "simple.noop")

    assert live.ended(killed).cause is EndCause.STOPPED
    assert live.ended(unused).cause is EndCause.STOPPED
    assert live.ended(left).detail.startswith("Worker exited prematurely: exitcode 2")
    assert live.ended(died).cause is EndCause.DIED
    end = live.ended(broken)
    assert end.cause is EndCause.START_FAILED
    assert "/no/file" in end.detail


def test_errors_that_the_driver_tells_of_are_counted_and_those_of_the_device_make_it_bad(
    live: LiveCluster, gpu_node: AddedNode
) -> None:
    fake = gpu_node.nvml
    assert fake is not None

    def told(xid: int) -> DeviceReading:
        # What came before the agent listened is not told, as with a real driver.
        for _ in range(30):
            fake.device(B).xids.append(xid)
            fake.write()
            reading = live.reading(gpu_node.node_id)
            if xid in dict(device(reading, B).xids):
                return device(reading, B)
        raise AssertionError(f"XID {xid} was never seen")

    assert told(13).health is Health.HEALTHY
    bad = told(79)
    assert (bad.health, bad.health_reason) == (Health.UNHEALTHY, "XID 79: the GPU has fallen off the bus")
    assert device(live.reading(gpu_node.node_id), A).health is Health.HEALTHY


@pytest.mark.slow
def test_a_lost_node_is_told_with_its_executors(live: LiveCluster, ray_cluster: RayTestCluster) -> None:
    uuid = "GPU-cccccccc-0000-0000-0000-000000000003"
    node = ray_cluster.add_node([FakeDevice(uuid)])
    live.reading(node.node_id, lambda reading: len(reading.devices) == 1)
    idle, busy = live.spec(node.node_id, uuid), live.spec(node.node_id, uuid)
    live.start(idle)
    live.start(busy)
    live.send(busy, "simple.sleep", 300)

    ray_cluster.remove_node(node)

    live.wait(NodeLost, lambda e: e.node_id == node.node_id)
    assert live.ended(idle).cause is EndCause.NODE_LOST
    assert live.ended(busy).cause is EndCause.NODE_LOST


def test_rays_own_nvml_reads_the_fake_library_too(gpu_node: AddedNode) -> None:
    assert gpu_node.nvml is not None
    code = (
        "from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as M\n"
        "from ray.dashboard.modules.reporter.gpu_providers import NvidiaGpuProvider\n"
        "rows = NvidiaGpuProvider().get_gpu_utilization()\n"
        "print(M.get_current_node_num_accelerators(), M.get_current_node_accelerator_type(), len(rows))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**gpu_node.nvml.environment(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["2", "A100", "2"]
