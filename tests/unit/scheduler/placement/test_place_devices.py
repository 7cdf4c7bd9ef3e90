"""Which device: tightest fit, exclusive use, types, gangs, host resources."""

from __future__ import annotations

import pytest

from celeray.scheduler.model import Isolation, Reason, ResourceRequest, Snapshot
from celeray.scheduler.placement import Policy, place

from .clusters import GIB, POLICY, device, gpu, node, snapshot, task, warm


def placed(decisions: object) -> dict[str, tuple[str, ...]]:
    return {p.task_id: p.device_uuids for p in decisions.placements}  # type: ignore[attr-defined]


def test_the_tightest_device_takes_it() -> None:
    cluster = snapshot(node("a", device("big", 80), device("tight", 24, 9)), node("b", device("mid", 24)))
    assert placed(place([task(1, gpu(8))], cluster, POLICY)) == {"t1": ("tight",)}


def test_equal_devices_are_filled_in_a_fixed_order() -> None:
    cluster = snapshot(node("a", device("a0"), device("a1")), node("b", device("b0")))
    tasks = [task(n, gpu(8, executor=f"x{n}"), executor_class=f"x{n}") for n in range(1, 5)]
    assert placed(place(tasks, cluster, POLICY)) == {
        "t1": ("a0",),
        "t2": ("a0",),
        "t3": ("a0",),
        "t4": ("a1",),
    }


def test_sixteen_half_device_tasks_on_eight_devices_are_two_each() -> None:
    cluster = snapshot(
        *(node(f"n{n}", *(device(f"n{n}-{i}") for i in range(2)), starts_free=4) for n in range(4))
    )
    tasks = [task(n, gpu(12), executor_class="half") for n in range(16)]
    used: dict[str, int] = {}
    for placement in place(tasks, cluster, POLICY).placements:
        used[placement.device_uuids[0]] = used.get(placement.device_uuids[0], 0) + 1
    assert used == {f"n{n}-{i}": 2 for n in range(4) for i in range(2)}


def test_a_whole_device_is_the_smallest_free_one_and_nobody_joins() -> None:
    cluster = snapshot(node("a", device("shared", 16, 15, holders=1), device("big", 80), device("small", 24)))
    decisions = place([task(1, gpu(None)), task(2, gpu(None)), task(3, gpu(None), 1)], cluster, POLICY)
    assert placed(decisions) == {"t1": ("small",), "t2": ("big",)}
    assert decisions.placements[0].memory_mib == 24 * GIB
    assert decisions.waiting[3] is Reason.EXCLUSIVE


def test_a_device_that_others_use_is_not_whole() -> None:
    cluster = snapshot(node("a", device("a0", 24, 20, foreign_mib=4 * GIB)))
    assert place([task(1, gpu(None))], cluster, POLICY).waiting == {1: Reason.EXCLUSIVE}
    tolerant = Policy(exclusive_foreign_mib=4 * GIB)
    assert placed(place([task(1, gpu(None))], cluster, tolerant)) == {"t1": ("a0",)}


def test_an_exclusive_process_device_gets_one_executor() -> None:
    cluster = snapshot(node("a", device("a0", exclusive_process=True, holders=1, room_gib=20)))
    assert place([task(1, gpu(1))], cluster, POLICY).waiting == {1: Reason.EXCLUSIVE}


def test_preferred_type_before_tighter_fit() -> None:
    cluster = snapshot(
        node("a", device("l4", 24, 9, gpu_type="NVIDIA L4")),
        node("b", device("a100", 80, gpu_type="NVIDIA A100-SXM4-80GB")),
    )
    wanted = gpu(8, gpu_types=("a100", "L4"))
    assert placed(place([task(1, wanted)], cluster, POLICY)) == {"t1": ("a100",)}
    assert place([task(1, gpu(8, gpu_types=("H100",)))], cluster, POLICY).waiting == {1: Reason.NEVER_FITS}


def test_a_gang_is_on_one_node_or_nowhere() -> None:
    cluster = snapshot(node("a", device("a0"), device("a1", 24, 4)), node("b", device("b0"), device("b1")))
    assert placed(place([task(1, gpu(8, gpus=2))], cluster, POLICY)) == {"t1": ("b0", "b1")}
    apart = snapshot(node("a", device("a0"), device("a1", 24, 4)), node("b", device("b0")))
    assert place([task(1, gpu(8, gpus=2))], apart, POLICY).waiting == {1: Reason.VRAM}


def test_labels_cpus_and_host_memory_of_the_node() -> None:
    cluster = snapshot(
        node("a", device("a0"), labels={"zone": "x"}, cpus_free_milli=1000),
        node("b", device("b0"), labels={"zone": "y"}, memory_free_mib=GIB),
    )
    assert placed(place([task(1, gpu(8, labels=(("zone", "y"),)))], cluster, POLICY)) == {"t1": ("b0",)}
    busy = place([task(1, gpu(8, cpus_milli=2000, labels=(("zone", "x"),)))], cluster, POLICY)
    assert busy.waiting == {1: Reason.CPUS}
    full = place([task(1, gpu(8, host_memory_mib=2 * GIB, labels=(("zone", "y"),)))], cluster, POLICY)
    assert full.waiting == {1: Reason.HOST_MEMORY}
    assert place([task(1, gpu(8, labels=(("zone", "z"),)))], cluster, POLICY).waiting == {
        1: Reason.NEVER_FITS
    }


def test_eight_cpus_run_on_an_idle_eight_cpu_node() -> None:
    cluster = snapshot(node("a", device("a0"), cpus=8))
    assert placed(place([task(1, gpu(8, cpus_milli=8000))], cluster, POLICY)) == {"t1": ("a0",)}


def test_work_without_devices_leaves_the_gpu_nodes_alone() -> None:
    cluster = snapshot(node("gpu", device("g0")), node("plain", cpus=4))
    request = ResourceRequest(cpus_milli=1000)
    decisions = place([task(n, request, executor_class="cpu") for n in range(5)], cluster, POLICY)
    assert [p.node_id for p in decisions.placements] == ["plain"] * 4 + ["gpu"]


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        (snapshot(), Reason.CLUSTER_DOWN),
        (snapshot(node("a", device("a0", 24, 4))), Reason.VRAM),
        (snapshot(node("a", device("a0", 4))), Reason.NEVER_FITS),
        (snapshot(node("a", device("a0", usable=False))), Reason.UNUSABLE),
        (snapshot(node("a", device("a0"), draining=True)), Reason.UNUSABLE),
        (snapshot(node("a", device("a0"), starts_free=0)), Reason.STARTING),
        (snapshot(node("a", device("a0", exclusive=True, holders=1, room_gib=0))), Reason.EXCLUSIVE),
        (snapshot(node("a", device("a0", 24, 0)), node("b", device("b0", 4))), Reason.VRAM),
        (snapshot(node("a", device("a0", 24, 0)), node("none")), Reason.VRAM),
    ],
)
def test_reasons(cluster: object, reason: Reason) -> None:
    assert place([task(1, gpu(8))], cluster, POLICY).waiting == {1: reason}  # type: ignore[arg-type]


def test_an_unreadable_device_may_fit_later() -> None:
    cluster = snapshot(node("a", device("a0", 0, 0, usable=False)))
    assert place([task(1, gpu(8))], cluster, POLICY).waiting == {1: Reason.UNUSABLE}


def test_a_fresh_task_gets_its_own_executor_even_beside_a_warm_one() -> None:
    request = gpu(8, isolation=Isolation.FRESH)
    cluster = snapshot(node("a", device("a0", 24, 16, holders=1)), executors=(warm(1, "k", "a", "a0"),))
    decisions = place([task(1, request, executor_class="k")], cluster, POLICY)
    assert [p.executor_id for p in decisions.placements] == [None]
    assert decisions.waiting == {}


def test_priority_then_age() -> None:
    cluster = snapshot(node("a", device("a0", 8)))
    tasks = [task(1, gpu(8, executor="x")), task(2, gpu(8, executor="y")), task(3, gpu(8), 9)]
    decisions = place(tasks, cluster, POLICY)
    assert [p.task_id for p in decisions.placements] == ["t3"]
    assert decisions.waiting == {1: Reason.VRAM, 2: Reason.VRAM, 3: Reason.STARTING}
    assert decisions.reasons() == {Reason.VRAM: 2, Reason.STARTING: 1}


@pytest.mark.parametrize(
    "cluster",
    [
        Snapshot((node("a", device("a0", 8)),), absent=(node("b", device("b0", 24)),)),
        snapshot(node("a", device("a0", 8), device("unleased", 0, 0, gpu_type=None, usable=False))),
        snapshot(node("head")),
    ],
    ids=[
        "a node that rebooted",
        "a device that is not leased yet",
        "a head whose GPU nodes are still to come",
    ],
)
def test_what_may_fit_soon_is_not_said_to_fit_never(cluster: Snapshot) -> None:
    wanted = gpu(20, gpu_types=("A100",))
    assert place([task(1, wanted)], cluster, POLICY).waiting[1] is not Reason.NEVER_FITS
