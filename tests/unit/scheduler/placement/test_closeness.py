"""Which devices a task on several of them gets where it is known how close they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.links import Matrix
from celeray.scheduler.model import Decisions, NodeState, Reserved, ResourceRequest, Snapshot
from celeray.scheduler.placement import CycleInput, Policy, closeness, dump_cycle, load_cycle, place
from celeray.scheduler.placement.closeness import closest
from tests.unit.scheduler.placement.clusters import POLICY, device, gpu, node, snapshot, task, warm

Choice = tuple[Matrix, list[bool], list[int], list[int], int]
"""Closeness, and of each device whether it fits, its tier and its score; how many are asked."""
POLICIES = ["default", "fgd", "best_fit", "first_fit", "spread"]


def islands(*sizes: int, inside: int = 400, outside: int = 10) -> Matrix:
    """Devices in groups that are close to each other, one group after another."""
    group = [number for number, size in enumerate(sizes) for _ in range(size)]
    return tuple(
        tuple(0 if a == b else inside if group[a] == group[b] else outside for b in range(len(group)))
        for a in range(len(group))
    )


def devices_of(decisions: Decisions) -> list[tuple[str, ...]]:
    return [tuple(sorted(placement.device_uuids)) for placement in decisions.placements]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_gang_goes_to_devices_on_one_island(policy: str) -> None:
    # d1 is tight, which most policies want first; it has no free neighbour.
    rooms = [0, 12, 24, 24]
    devices = [device(f"d{number}", room_gib=room) for number, room in enumerate(rooms)]
    known = node("n", *devices, closeness=islands(2, 2))

    decisions = place([task(0, gpu(8, gpus=2))], snapshot(known), Policy(name=policy))

    assert devices_of(decisions) == [("d2", "d3")]


def test_the_least_close_pair_counts_first_then_the_sum_then_the_policy() -> None:
    tight = [device(f"d{number}", room_gib=24 - number) for number in range(4)]
    one_bad_pair = ((0, 900, 900, 20), (900, 0, 10, 20), (900, 10, 0, 20), (20, 20, 20, 0))
    request = gpu(8, gpus=3)

    by_least = place([task(0, request)], snapshot(node("n", *tight, closeness=one_bad_pair)), POLICY)
    assert devices_of(by_least) == [("d0", "d1", "d3")] or devices_of(by_least) == [("d0", "d2", "d3")]

    sums = ((0, 20, 20, 20), (20, 0, 90, 20), (20, 90, 0, 20), (20, 20, 20, 0))
    by_sum = place([task(0, request)], snapshot(node("n", *tight, closeness=sums)), POLICY)
    assert devices_of(by_sum) == [("d1", "d2", "d3")], "d0 and d3 are alike, and d3 is the tighter one"


def test_the_order_of_types_comes_before_closeness() -> None:
    devices = [device(f"d{n}", gpu_type=name) for n, name in enumerate(("H100", "A100", "H100", "A100"))]
    known = node("n", *devices, closeness=islands(2, 2))

    def of(*types: str) -> list[tuple[str, ...]]:
        return devices_of(place([task(0, gpu(8, gpus=2, gpu_types=types))], snapshot(known), POLICY))

    assert of("H100", "A100") == [("d0", "d2")]
    assert of("A100", "H100") == [("d1", "d3")]
    assert of("100") in ([("d0", "d1")], [("d2", "d3")])


def test_a_gang_that_needs_a_less_wanted_type_gets_the_closest_of_those() -> None:
    names = ("A100", "H100", "A100", "A100")
    devices = [device(f"d{n}", gpu_type=name) for n, name in enumerate(names)]
    known = node(
        "n", *devices, closeness=((0, 10, 10, 10), (10, 0, 10, 400), (10, 10, 0, 10), (10, 400, 10, 0))
    )

    decisions = place([task(0, gpu(8, gpus=2, gpu_types=("H100", "A100")))], snapshot(known), POLICY)

    assert devices_of(decisions) == [("d1", "d3")]


@pytest.mark.parametrize("policy", POLICIES)
def test_of_nodes_that_the_policy_likes_alike_the_closer_one_is_taken(policy: str) -> None:
    def of(name: str, matrix: Matrix) -> NodeState:
        return node(name, device(f"{name}0"), device(f"{name}1"), closeness=matrix)

    nodes = [of("a", ()), of("b", islands(1, 1)), of("c", islands(2)), of("d", islands(2, inside=1200))]

    tasks = [task(number, gpu(20, gpus=2)) for number in range(4)]
    taken = [
        placement.node_id
        for placement in place(tasks, Snapshot(tuple(nodes)), Policy(name=policy)).placements
    ]

    assert taken == ["d", "c", "b", "a"]


def test_what_the_policy_likes_better_is_worth_more_than_closeness() -> None:
    tight = node("a", device("a0", room_gib=10), device("a1", room_gib=10))
    close = node("b", device("b0"), device("b1"), closeness=islands(2))

    decisions = place([task(0, gpu(8, gpus=2))], snapshot(close, tight), Policy(name="best_fit"))

    assert devices_of(decisions) == [("a0", "a1")]


def test_idle_executors_end_on_close_devices_where_they_are_worth_the_same() -> None:
    devices = [device(f"d{number}", room_gib=0, holders=1) for number in range(4)]
    executors = tuple(warm(n, "other", "n", f"d{n}", gib=24) for n in range(4))
    close = ((0, 10, 10, 10), (10, 0, 10, 400), (10, 10, 0, 10), (10, 400, 10, 0))

    def ended(known: Matrix, executors: tuple[object, ...] = executors) -> set[str]:
        found = snapshot(node("n", *devices, closeness=known), executors=executors)  # type: ignore[arg-type]
        return set(place([task(0, gpu(20, gpus=2))], found, POLICY).evictions)

    assert ended(()) == {"e0", "e1"}
    assert ended(close) == {"e1", "e3"}
    dear = tuple(
        replace(executor, start_ms=60_000 * (executor.executor_id == "e3")) for executor in executors
    )
    assert ended(close, dear) == {"e0", "e1"}, "a start costs more than distance"


def test_room_is_kept_on_close_devices_that_are_free_no_later() -> None:
    devices = [device(f"d{number}", room_gib=0, holders=1) for number in range(4)]
    ends = (3_000, 5_000, 4_000, 5_000)
    executors = tuple(
        warm(n, "other", "n", f"d{n}", gib=24, idle=False, ends_in_ms=ends[n]) for n in range(4)
    )

    def kept(known: Matrix, gpus: int = 3) -> Reserved | None:
        found = snapshot(node("n", *devices, closeness=known), executors=executors)
        return place([task(0, gpu(20, gpus=gpus))], found, POLICY).reserved

    assert kept(()) == Reserved(0, "n", ("d0", "d2", "d1"), 5_000)
    close = kept(((0, 10, 10, 10), (10, 0, 400, 400), (10, 400, 0, 400), (10, 400, 400, 0)))
    assert close is not None
    assert (set(close.device_uuids), close.starts_in_ms) == ({"d1", "d2", "d3"}, 5_000)
    early = kept(islands(1, 1, 1, 1), gpus=2)
    assert early is not None
    assert (set(early.device_uuids), early.starts_in_ms) == ({"d0", "d2"}, 4_000), "never later for closeness"


def test_a_node_with_many_sets_grows_them() -> None:
    known = islands(4, 6, 6)
    fits = np.ones((2, 16), dtype=np.bool_)
    fits[0, 5] = False
    nothing = np.zeros((2, 16), dtype=np.int64)

    found = closest(np.array(known), fits, nothing, nothing, 6)

    assert found.tolist() == [[10, 11, 12, 13, 14, 15], [4, 5, 6, 7, 8, 9]]


# Properties

PAIR = st.sampled_from([0, 10, 30, 50, 100, 200, 1200])


@st.composite
def matrices(draw: st.DrawFn, width: int) -> Matrix:
    values = {pair: draw(PAIR) for pair in combinations(range(width), 2)}
    return tuple(tuple(values.get((min(a, b), max(a, b)), 0) for b in range(width)) for a in range(width))


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    width = draw(st.integers(2, 8))
    fits = draw(st.lists(st.booleans(), min_size=width, max_size=width).filter(lambda found: sum(found) > 1))
    tiers = draw(st.lists(st.integers(0, 2), min_size=width, max_size=width))
    scores = draw(st.lists(st.integers(0, 3), min_size=width, max_size=width))
    return draw(matrices(width)), fits, tiers, scores, draw(st.integers(2, sum(fits)))


def chosen(choice: Choice) -> list[int]:
    known, fits, tiers, scores, gpus = choice
    rows = [np.array([row]) for row in (fits, tiers, scores)]
    (found,) = closest(np.array(known), *rows, gpus).tolist()
    return list(found)


def worth(choice: Choice, columns: tuple[int, ...]) -> tuple[int, ...]:
    known, _, tiers, scores, _ = choice
    pairs = [known[a][b] for a, b in combinations(columns, 2)]
    return sum(tiers[c] for c in columns), -min(pairs), -sum(pairs), sum(scores[c] for c in columns)


@given(choices())
@settings(max_examples=80, deadline=None)
def test_the_best_of_all_sets_is_taken(choice: Choice) -> None:
    _, fits, _, _, gpus = choice
    columns = chosen(choice)

    assert len(set(columns)) == gpus
    assert all(fits[column] for column in columns)
    sets = combinations([column for column, fit in enumerate(fits) if fit], gpus)
    assert tuple(columns) == min(sets, key=lambda columns: (worth(choice, columns), columns))


@given(choices())
@settings(max_examples=80, deadline=None)
def test_grown_sets_fit_and_are_the_same_again(
    choice: Choice,
) -> None:
    _, fits, tiers, _, gpus = choice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closeness, "SETS_MAX", 0)
        columns = chosen(choice)
        assert columns == chosen(choice)
    best = chosen(choice)

    assert len(set(columns)) == gpus
    assert all(fits[column] for column in columns)
    least_tiers = sorted(tier for tier, fit in zip(tiers, fits, strict=True) if fit)[:gpus]
    assert sum(tiers[column] for column in columns) == sum(least_tiers)
    if gpus == 2:
        assert worth(choice, tuple(columns)) == worth(choice, tuple(best))


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Snapshot, list[Matrix]]:
    nodes, known = [], []
    for number in range(draw(st.integers(1, 3))):
        width = draw(st.integers(2, 5))
        devices = [
            device(
                f"n{number}-{place}",
                room_gib=draw(st.sampled_from([0, 8, 16, 24])),
                gpu_type=draw(st.sampled_from(["A100", "T4"])),
            )
            for place in range(width)
        ]
        nodes.append(node(f"n{number}", *devices))
        known.append(draw(matrices(width)))
    return Snapshot(tuple(nodes)), known


gangs = st.builds(
    lambda gib, gpus, types: gpu(gib, gpus=gpus, gpu_types=types),
    st.sampled_from([None, 4, 8, 20]),
    st.integers(1, 4),
    st.sampled_from([(), ("A100",), ("T4", "A100")]),
)


def _with(found: Snapshot, known: list[Matrix]) -> Snapshot:
    return replace(
        found, nodes=tuple(replace(n, closeness=m) for n, m in zip(found.nodes, known, strict=True))
    )


@given(clusters(), st.lists(gangs, max_size=5), st.sampled_from(POLICIES))
@settings(max_examples=40, deadline=None)
def test_closeness_changes_neither_what_waits_for_one_nor_what_fits(
    cluster: tuple[Snapshot, list[Matrix]], requests: list[ResourceRequest], policy: str
) -> None:
    plain, known = cluster
    room = {d.uuid: d.schedulable_mib for n in plain.nodes for d in n.devices}
    node_of = {d.uuid: n.node_id for n in plain.nodes for d in n.devices}
    tasks = [task(number, request) for number, request in enumerate(requests)]

    decisions = place(tasks, _with(plain, known), Policy(name=policy))

    for placement in decisions.placements:
        assert len(set(placement.device_uuids)) == requests[placement.sequence].gpus
        assert {node_of[uuid] for uuid in placement.device_uuids} == {placement.node_id}
        for uuid in placement.device_uuids:
            room[uuid] -= placement.memory_mib
    assert min(room.values()) >= 0
    if requests:
        # The first gang has a place if it had one.
        alone = place(tasks[:1], plain, Policy(name=policy)).placements
        assert len(place(tasks[:1], _with(plain, known), Policy(name=policy)).placements) == len(alone)


@given(clusters(), st.lists(gangs, max_size=5), st.sampled_from(POLICIES), st.sampled_from([10, 1200]))
@settings(max_examples=40, deadline=None)
def test_where_all_are_equally_close_every_decision_is_what_it_is_without(
    cluster: tuple[Snapshot, list[Matrix]], requests: list[ResourceRequest], policy: str, value: int
) -> None:
    plain, _ = cluster
    alike = _with(plain, [islands(len(n.devices), inside=value) for n in plain.nodes])
    # Room that is kept goes by the wanted types too where closeness is known: of tasks with a preference one is placed.
    first = [task(number, request) for number, request in enumerate(requests[:1])]
    untyped = [task(number, replace(request, gpu_types=())) for number, request in enumerate(requests)]

    assert place(untyped, alike, Policy(name=policy)) == place(untyped, plain, Policy(name=policy))
    assert (
        place(first, alike, Policy(name=policy)).placements
        == place(first, plain, Policy(name=policy)).placements
    )


@given(clusters(), st.lists(gangs, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_dumped_cycle_with_closeness_decides_the_same_again(
    cluster: tuple[Snapshot, list[Matrix]], requests: list[ResourceRequest]
) -> None:
    tasks = tuple(task(number, request) for number, request in enumerate(requests))
    cycle = CycleInput(tasks, _with(*cluster), Policy())

    again = load_cycle(dump_cycle(cycle))

    assert again == cycle
    assert place(again.waiting, again.snapshot, again.policy) == place(tasks, cycle.snapshot, cycle.policy)


def test_a_cycle_that_was_dumped_without_closeness_is_read_still() -> None:
    text = dump_cycle(CycleInput((), snapshot(node("n", device("d"))), Policy()))
    assert b'"closeness":[]' in text

    again = load_cycle(text.replace(b',"closeness":[]', b""))

    assert again.snapshot.nodes[0].closeness == ()


def test_a_node_with_fewer_devices_than_are_asked_for_is_no_candidate() -> None:
    wide = node("wide", *(device(f"w{number}") for number in range(8)), closeness=islands(4, 4))
    narrow = node("narrow", *(device(f"n{number}") for number in range(2)), closeness=islands(2))
    decisions = place([task(0, gpu(8, gpus=6))], snapshot(narrow, wide), POLICY)
    (chosen,) = devices_of(decisions)
    assert all(uuid.startswith("w") for uuid in chosen)
