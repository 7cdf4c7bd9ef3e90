"""Room that is kept for the first task without a place: small ones fill gaps, and never delay it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.model import Decisions, Reason, ResourceRequest, Snapshot, WaitingTask
from celeray.scheduler.placement import Order, Policy, place

from .clusters import POLICY, device, gpu, node, snapshot, task, warm

OFF = Policy(order=Order(reserve=False))


def busy(
    number: int, *uuids: str, node_id: str = "a", gib: int = 24, ends_in_ms: int | None = 60_000
) -> object:
    return warm(number, f"busy-{number}", node_id, *uuids, gib=gib, idle=False, ends_in_ms=ends_in_ms)


def two_of_four(ends_in_ms: int | None = 60_000) -> Snapshot:
    """Devices 0 and 1 of a node are taken, 2 and 3 are free."""
    return snapshot(
        node(
            "a",
            device("a0", 24, 0, holders=1),
            device("a1", 24, 0, holders=1),
            device("a2"),
            device("a3"),
        ),
        executors=(busy(1, "a0", ends_in_ms=ends_in_ms), busy(2, "a1", ends_in_ms=ends_in_ms)),  # type: ignore[arg-type]
    )


def gang_and_small(expected_ms: int | None, count: int = 2) -> list[WaitingTask]:
    small = [replace(task(n, gpu(24)), expected_ms=expected_ms) for n in range(2, 2 + count)]
    return [task(1, gpu(24, gpus=4)), *small]


def started(decisions: Decisions) -> list[str]:
    return [placement.task_id for placement in decisions.placements]


def test_without_a_reservation_small_tasks_starve_a_gang() -> None:
    assert started(place(gang_and_small(None), two_of_four(), OFF)) == ["t2", "t3"]


def test_tasks_of_unknown_length_do_not_take_what_the_gang_needs() -> None:
    decisions = place(gang_and_small(None), two_of_four(), POLICY)
    assert started(decisions) == []
    assert decisions.waiting == {1: Reason.VRAM, 2: Reason.RESERVED, 3: Reason.RESERVED}
    assert decisions.reserved is not None
    assert decisions.reserved.sequence == 1
    assert set(decisions.reserved.device_uuids) == {"a0", "a1", "a2", "a3"}
    assert decisions.reserved.starts_in_ms == 60_000


@pytest.mark.parametrize(("expected_ms", "places"), [(60_000, ["t2", "t3"]), (60_001, [])])
def test_what_ends_in_time_goes_before(expected_ms: int, places: list[str]) -> None:
    assert started(place(gang_and_small(expected_ms), two_of_four(), POLICY)) == places


def test_what_the_task_leaves_over_is_free_for_all() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 8, holders=1), device("a1", 24, 24)),
        executors=(busy(1, "a0", gib=16),),  # type: ignore[arg-type]
    )
    waiting = [task(1, gpu(20, gpus=2)), *(task(n, gpu(4)) for n in (2, 3, 4, 5))]
    decisions = place(waiting, cluster, POLICY)
    assert started(decisions) == ["t2", "t3"], "4 GiB of each device are over"
    assert decisions.waiting[4] is decisions.waiting[5] is Reason.RESERVED


def test_the_node_that_is_free_first_is_taken() -> None:
    late = busy(1, "a0", ends_in_ms=9_000)
    soon = busy(2, "b0", node_id="b", ends_in_ms=5_000)
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1)),
        node("b", device("b0", 24, 0, holders=1)),
        executors=(late, soon),  # type: ignore[arg-type]
    )
    decisions = place([task(1, gpu(24))], cluster, POLICY)
    assert decisions.reserved is not None
    assert (decisions.reserved.node_id, decisions.reserved.starts_in_ms) == ("b", 5_000)


def test_an_end_that_is_not_known_is_taken_for_a_late_one() -> None:
    unknown, known = busy(1, "a0", ends_in_ms=None), busy(2, "b0", node_id="b", ends_in_ms=10**6)
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1)),
        node("b", device("b0", 24, 0, holders=1)),
        executors=(unknown, known),  # type: ignore[arg-type]
    )
    decisions = place([task(1, gpu(24))], cluster, POLICY)
    assert decisions.reserved is not None
    assert decisions.reserved.node_id == "b"
    only = snapshot(node("a", device("a0", 24, 0, holders=1)), executors=(unknown,))  # type: ignore[arg-type]
    decisions = place([task(1, gpu(24))], only, POLICY)
    assert decisions.reserved is not None
    assert decisions.reserved.starts_in_ms is None, "it is not said to be known"


def test_cpus_and_host_memory_are_kept_too() -> None:
    cluster = snapshot(
        node("a", device("a0"), cpus=8, cpus_free_milli=4000),
        executors=(warm(1, "k", "a", gib=0, idle=False, ends_in_ms=1000, cpus_milli=4000),),
    )
    waiting = [task(1, ResourceRequest(cpus_milli=6000)), task(2, ResourceRequest(cpus_milli=3000))]
    decisions = place(waiting, cluster, POLICY)
    assert started(decisions) == []
    assert decisions.waiting == {1: Reason.CPUS, 2: Reason.RESERVED}
    two = place([waiting[0], task(2, ResourceRequest(cpus_milli=2000))], cluster, POLICY)
    assert started(two) == ["t2"], "8 less 6 are over"


def test_a_warm_executor_on_reserved_room_serves_only_what_ends_in_time() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1), device("a1", 24, 0, holders=1)),
        executors=(
            busy(1, "a0"),  # type: ignore[arg-type]
            warm(2, "k", "a", "a1", gib=24, last_used=1.0),
        ),
    )
    lasting = [task(1, gpu(24, gpus=2)), task(2, gpu(24), executor_class="k")]
    assert started(place(lasting, cluster, POLICY)) == []
    short = [lasting[0], replace(lasting[1], expected_ms=1000)]
    assert [p.executor_id for p in place(short, cluster, POLICY).placements] == ["e2"]


def test_only_the_first_task_without_a_place_gets_a_reservation() -> None:
    waiting = [task(1, gpu(24, gpus=4)), task(2, gpu(20, gpus=4)), task(3, gpu(8))]
    decisions = place(waiting, two_of_four(), POLICY)
    assert decisions.reserved is not None
    assert decisions.reserved.sequence == 1


def test_what_can_never_start_reserves_nothing() -> None:
    decisions = place([task(1, gpu(99)), task(2, gpu(24))], two_of_four(), POLICY)
    assert decisions.waiting[1] is Reason.NEVER_FITS
    assert decisions.reserved is None
    assert started(decisions) == ["t2"]


def test_a_stream_of_small_tasks_never_starves_a_gang() -> None:
    """Each second two small ones come that run for three; the gang of four came third."""
    clock, sequence, running = 0, 2, {}
    cluster = [device(f"a{n}") for n in range(4)]
    waiting = [replace(task(2, gpu(24, gpus=4)), arrived_ms=0)]
    for clock in range(0, 60_000, 1_000):
        running = {uuid: end for uuid, end in running.items() if end > clock}
        for _ in range(2):
            sequence += 1
            waiting.append(replace(task(sequence, gpu(24)), expected_ms=3_000, arrived_ms=clock))
        now = snapshot(
            node(
                "a", *(replace(d, schedulable_mib=0, holders=1) if d.uuid in running else d for d in cluster)
            ),
            executors=tuple(
                busy(n, uuid, ends_in_ms=end - clock)  # type: ignore[misc]
                for n, (uuid, end) in enumerate(sorted(running.items()))
            ),
        )
        decisions = place(waiting, now, POLICY)
        for placement in decisions.placements:
            if placement.sequence == 2:
                break
            running |= dict.fromkeys(placement.device_uuids, clock + 3_000)
        else:
            placed = {placement.sequence for placement in decisions.placements}
            waiting = [t for t in waiting if t.sequence not in placed]
            continue
        break
    assert clock <= 6_000, "it begins once the first ones have ended"


def full(ends: dict[str, int]) -> Snapshot:
    """Two nodes of two devices each, all busy until the given times."""
    devices = {name: [device(f"{name}{n}", 24, 0, holders=1) for n in (0, 1)] for name in ("a", "b")}
    executors = tuple(
        busy(number, uuid, node_id=uuid[0], ends_in_ms=at) for number, (uuid, at) in enumerate(ends.items())
    )
    return snapshot(*(node(name, *found) for name, found in devices.items()), executors=executors)  # type: ignore[arg-type]


@pytest.mark.parametrize(("late_ms", "kept"), [(900, True), (1_300, False)])
def test_what_was_kept_so_far_stays_unless_another_place_comes_much_sooner(late_ms: int, kept: bool) -> None:
    pair = task(1, gpu(24, gpus=2))
    before = place([pair], full({"a0": 300, "a1": 400, "b0": 500, "b1": 600}), POLICY).reserved
    assert before is not None
    assert before.node_id == "a"
    overdue = full({"a0": 10, "a1": late_ms, "b0": 90, "b1": 100})
    for known, stays in ((before, kept), (None, False), (replace(before, sequence=9), False)):
        found = place([pair], replace(overdue, reserved=known), POLICY).reserved
        assert found is not None
        assert found.node_id == ("a" if stays else "b")


def test_an_executor_that_got_a_task_in_this_cycle_ends_with_that() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 0, holders=1), device("a1", 24, 0, holders=1)),
        executors=(
            busy(1, "a0", ends_in_ms=200),  # type: ignore[arg-type]
            warm(2, "k", "a", "a1", gib=24),
        ),
    )
    own = replace(task(1, gpu(24), executor_class="k"), expected_ms=5_000)
    decisions = place([own, task(2, gpu(24, gpus=2))], cluster, POLICY)
    assert started(decisions) == ["t1"]
    assert decisions.reserved is not None
    assert decisions.reserved.starts_in_ms == 5_000
