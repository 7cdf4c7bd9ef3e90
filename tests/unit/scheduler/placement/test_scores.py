"""Each policy at both levels, and the index that scores by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.model import Isolation, Reason, ResourceRequest, Snapshot, WaitingTask
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.placement.board import Board
from celeray.scheduler.placement.candidates import Candidates
from celeray.scheduler.placement.prior import Prior, PriorShape, prior_of
from celeray.scheduler.placement.refusing import device_reasons, node_reasons
from celeray.scheduler.placement.rooms import Rooms
from celeray.scheduler.placement.scores import SCORES
from celeray.scheduler.placement.scores.fgd import STEPS, WEIGHTS, FragmentationGradient, usual
from celeray.scheduler.placement.scores.residue import cpus_per_gpu, gang_worth
from celeray.scheduler.placement.scores.score import View

from .clusters import GIB, device, gpu, node, snapshot, task
from .test_place_properties import requests, snapshots, waiting_tasks

MIXED = snapshot(
    node("a", device("a0", 24, 24), device("a1", 24, 10, holders=1)),
    node("b", device("b0", 24, 12, holders=1), device("b1", 24, 24)),
    node("c", device("c0", 24, 24), device("c1", 24, 24)),
)


def chosen(
    name: str, request: ResourceRequest, cluster: Snapshot = MIXED, prior: Prior | None = None
) -> tuple[str, ...]:
    placements = place([task(1, request)], cluster, Policy(name=name, prior=prior)).placements
    return placements[0].device_uuids


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [("best_fit", "a1", "a0"), ("first_fit", "a0", "a0"), ("spread", "c0", "c0"), ("default", "a1", "a0")],
)
def test_the_device_that_each_policy_takes(name: str, small: str, large: str) -> None:
    assert chosen(name, gpu(8)) == (small,)
    assert chosen(name, gpu(20)) == (large,)


def test_a_wanted_type_comes_before_any_score() -> None:
    cluster = snapshot(
        node("a", device("a0", 24, 8, holders=1, gpu_type="T4")), node("b", device("b0", 80, gpu_type="A100"))
    )
    for name in SCORES:
        assert chosen(name, gpu(8, gpu_types=("A100", "T4")), cluster) == ("b0",)


def test_a_rest_that_nothing_else_fits_is_not_made() -> None:
    """810 milli leaves 190, which only the two thirds can't use: the pair of 500 is worth more together."""
    prior = prior_of([ResourceRequest(gpus=1, memory_mib=mib) for mib in (8100, 5000, 5000, 5000)])
    cluster = snapshot(
        node("a", replace(device("a0"), total_mib=10_000, schedulable_mib=9_000, holders=1)),
        node("b", replace(device("b0"), total_mib=10_000, schedulable_mib=10_000)),
    )
    # Best fit takes the tightest device; there the half of a pair would be lost, since 9,000 holds one 8,100.
    assert chosen("best_fit", ResourceRequest(gpus=1, memory_mib=5_000), cluster) == ("a0",)
    assert chosen("default", ResourceRequest(gpus=1, memory_mib=5_000), cluster, prior) == ("b0",)
    assert chosen("default", ResourceRequest(gpus=1, memory_mib=8_100), cluster, prior) == ("a0",)


def test_idle_devices_keep_the_cpus_that_they_need() -> None:
    prior = prior_of([ResourceRequest(gpus=1, memory_mib=12 * GIB, cpus_milli=4000)])
    cluster = snapshot(
        node("a", device("a0", 24), device("a1", 24), cpus=16),
        node("b", device("b0", 24), device("b1", 24), cpus=32),
    )
    assert (
        place([task(1, ResourceRequest(cpus_milli=8000))], cluster, Policy(prior=prior)).placements[0].node_id
        == "b"
    ), "the devices of a would be left with too few"


def test_devices_of_one_node_are_kept_together_for_gangs() -> None:
    prior = Prior((PriorShape(1, 24 * GIB, 0, weight=50), PriorShape(2, 24 * GIB, 0, weight=50)))
    cluster = snapshot(
        node("a", device("a0"), device("a1")), node("b", device("b0"), device("b1", 24, 0, holders=1))
    )
    assert chosen("default", gpu(24), cluster, prior) == ("b0",)


def test_cpus_per_gpu_and_gang_worth() -> None:
    prior = Prior(
        (
            PriorShape(1, 12 * GIB, 2000, weight=2),
            PriorShape(2, None, 8000, weight=1),
            PriorShape(0, None, 500),
        )
    )
    assert cpus_per_gpu(prior, 24 * GIB) == (2 * 2000 + 8000) // 3
    worth = gang_worth(prior, 4)
    assert worth.tolist()[:2] == [0, 0]
    assert worth[2] == worth[3] > 0
    assert worth[4] == 2 * worth[2]
    assert not gang_worth(None, 4).any()


# FGD, beside its definition


def fragment(idle: list[int], total: int, cpus: int, prior: Prior) -> float:
    """Section 3 of the paper, for one node: mean over the usual shapes of what they can't use."""
    shapes = usual(prior)
    found = 0.0
    for shape in shapes:
        need = total if shape.memory_mib is None else shape.memory_mib
        hosts = shape.gpus and sum(i >= need for i in idle) >= shape.gpus and cpus >= shape.cpus_milli
        unused = sum(i for i in idle if i < need) if hosts else sum(idle)
        found += shape.weight * unused * 1000 / total
    return found / sum(shape.weight for shape in shapes)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=4),
    st.integers(0, 16_000),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 1000), st.integers(0, 8_000), st.integers(1, 20)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 1000),
)
@settings(max_examples=150, deadline=None)
def test_the_fragment_is_as_defined(
    idle: list[int], cpus: int, shapes: list[tuple[int, int, int, int]], need: int
) -> None:
    prior = Prior(tuple(PriorShape(g, m if g else None, c, weight=w) for g, m, c, w in shapes))
    state = node(
        "a",
        *(replace(device(f"a{n}"), total_mib=1000, schedulable_mib=i) for n, i in enumerate(idle)),
        cpus=16,
    )
    board = Board(snapshot(replace(state, cpus_free_milli=cpus)))
    rooms = Rooms(board, Policy(prior=prior))
    request = ResourceRequest(gpus=1, memory_mib=need, cpus_milli=0)
    rows = np.array([0])
    score = FragmentationGradient(rooms, Policy(prior=prior))
    after = score.devices(View(request, rows, rooms, rooms.room(request, rows, lasting=False)))[0]
    # Weights are cut to millionths of the sum, and shares to thousandths of a device.
    rounding = WEIGHTS * 1e-3 + len(shapes) * 1000 * len(idle)
    for column, room in enumerate(idle):
        if room >= need:
            left = [i - need * (n == column) for n, i in enumerate(idle)]
            assert abs(after[column] - WEIGHTS * fragment(left, 1000, cpus, prior)) <= rounding


def test_the_steps_are_the_published_sigmoid() -> None:
    for decrease in (-5000, -1200, -1, 0, 1, 80, 1000, 4000):
        score = int(np.searchsorted(STEPS, decrease * WEIGHTS, side="right"))
        assert score == math.floor(100 / (1 + math.exp(-decrease / 1000)))


# The index


@given(snapshots(), waiting_tasks(), st.sampled_from(sorted(SCORES)))
@settings(max_examples=150, deadline=None)
def test_scores_that_are_kept_are_those_of_a_fresh_look(
    cluster: Snapshot, tasks: tuple[WaitingTask, ...], name: str
) -> None:
    """After any placements, what was scored before and updated equals what is scored from nothing."""
    policy = Policy(name=name, prior=prior_of(task.request for task in tasks) if name != "default" else None)
    board = Board(cluster)
    rooms = Rooms(board, policy)
    kept = Candidates(board, rooms, policy)
    for waiting in (*tasks, *tasks):
        fresh = Candidates(board, Rooms(board, policy), policy).best(waiting.request)
        assert kept.best(waiting.request) == fresh
        if fresh is None:
            continue
        found, devices = fresh
        memory = waiting.request.memory_mib or min((d.room_mib for d in devices), default=0)
        board.take_room(found, devices, waiting.request, memory)
        rooms.changed(found, devices)


@given(snapshots(), requests)
@settings(max_examples=200, deadline=None)
def test_a_node_has_a_place_exactly_where_it_has_no_reason(
    cluster: Snapshot, request: ResourceRequest
) -> None:
    board = Board(cluster)
    rooms = Rooms(board, Policy())
    best = Candidates(board, rooms, Policy()).best(request)
    reasons = node_reasons(request, rooms)
    assert (best is not None) == (None in reasons)
    if best is not None:
        assert reasons[best[0].row] is None
        verdicts = device_reasons(request, rooms, best[0].row)
        assert all(verdicts[d.column] is None for d in best[1])


def test_a_device_says_why_it_is_closed() -> None:
    cluster = snapshot(
        node(
            "a",
            device("free", 24),
            device("full", 24, 2, holders=1),
            device("shared", 24, 20, holders=1),
            device("sick", 24, usable=False),
            device("taken", 24, 0, holders=1, exclusive=True),
            device("other", 24, gpu_type="T4"),
        )
    )
    rooms = Rooms(Board(cluster), Policy())
    whole = ResourceRequest(gpus=1, exclusive=True, gpu_types=("A100",))
    assert device_reasons(whole, rooms, 0) == [
        None,
        Reason.EXCLUSIVE,
        Reason.EXCLUSIVE,
        Reason.UNUSABLE,
        Reason.EXCLUSIVE,
        Reason.GPU_TYPE,
    ]
    assert device_reasons(gpu(8), rooms, 0) == [
        None,
        Reason.VRAM,
        None,
        Reason.UNUSABLE,
        Reason.EXCLUSIVE,
        None,
    ]


def test_fresh_tasks_of_one_cycle_each_get_their_own_room() -> None:
    request = replace(gpu(12), isolation=Isolation.FRESH)
    decisions = place([task(n, request) for n in range(4)], snapshot(node("a", device("a0"))), Policy())
    assert len(decisions.placements) == 2
    assert [decisions.waiting[n] for n in (2, 3)] == [Reason.VRAM] * 2
