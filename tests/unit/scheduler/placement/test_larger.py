"""What a task asks for after its memory ran out: always more, never more than there is, and not for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.model import OnOom, ResourceRequest
from celeray.scheduler.placement import Policy
from celeray.scheduler.placement.filters import could_ever_fit
from celeray.scheduler.placement.larger import Tries, idle_room_mib, largest_device_mib, place_again

from .clusters import GIB, POLICY, device, gpu, node

FIRST = Tries(0, 5)


def after(
    request: ResourceRequest,
    reserved: int,
    largest: int | None = 80 * GIB,
    *,
    learned: int | None = None,
    tries: Tries = FIRST,
) -> int | None:
    larger = place_again(
        request, reserved_mib=reserved, largest_mib=largest, learned_mib=learned, tries=tries
    )
    if larger is not None:
        assert replace(larger, memory_mib=request.memory_mib) == request, "nothing else changes"
    return None if larger is None else larger.memory_mib


def test_half_again_of_what_was_reserved_and_not_of_what_was_asked() -> None:
    assert after(gpu(8), 8 * GIB) == 12 * GIB
    assert after(gpu(8), 12 * GIB) == 18 * GIB


def test_it_is_rounded_up_to_whole_mib() -> None:
    assert after(gpu(8), 1001) == 1502


@pytest.mark.parametrize(
    ("learned", "asked"), [(20 * GIB, 20 * GIB), (9 * GIB, 12 * GIB), (200 * GIB, 80 * GIB)]
)
def test_what_was_learned_counts_where_it_is_more(learned: int, asked: int) -> None:
    assert after(gpu(8), 8 * GIB, learned=learned) == asked


def test_it_stops_at_vram_gb_max_and_at_the_largest_device() -> None:
    bounded = gpu(8, memory_mib_max=10 * GIB)
    assert after(bounded, 8 * GIB) == 10 * GIB
    assert after(bounded, 10 * GIB) is None
    assert after(gpu(8), 70 * GIB) == 80 * GIB
    assert after(gpu(8), 80 * GIB) is None


def test_the_last_run_is_the_tasks_own() -> None:
    assert after(gpu(8), 8 * GIB, tries=Tries(3, 5)) == 12 * GIB
    assert after(gpu(8), 8 * GIB, tries=Tries(4, 5)) is None
    assert after(gpu(8), 8 * GIB, tries=Tries(0, 1)) is None


def test_who_does_not_want_it_fails_at_once() -> None:
    assert after(gpu(8, on_oom=OnOom.FAIL), 8 * GIB) is None


def test_without_a_device_there_is_nothing_to_ask() -> None:
    assert after(ResourceRequest(), 0) is None


def test_a_whole_device_goes_to_a_larger_one_and_stays_whole() -> None:
    whole = gpu(None)
    larger = place_again(whole, reserved_mib=24 * GIB, largest_mib=80 * GIB, learned_mib=None, tries=FIRST)
    assert larger == replace(whole, memory_mib=36 * GIB)
    assert larger is not None
    assert larger.exclusive
    assert after(whole, 24 * GIB, largest=24 * GIB) is None
    assert after(whole, 24 * GIB, largest=32 * GIB) == 32 * GIB


def test_of_an_unknown_cluster_nothing_is_asked() -> None:
    assert after(gpu(8), 8 * GIB, largest=None) is None
    assert after(gpu(8, memory_mib_max=20 * GIB), 8 * GIB, largest=None) == 12 * GIB


@given(
    start=st.integers(1, 200_000),
    largest=st.integers(1, 400_000),
    most=st.none() | st.integers(1, 400_000),
    learned=st.none() | st.integers(1, 400_000),
    runs_most=st.integers(1, 20),
)
def test_each_run_has_more_than_the_one_before_and_there_are_so_many(
    start: int, largest: int, most: int | None, learned: int | None, runs_most: int
) -> None:
    request = ResourceRequest(gpus=1, memory_mib=start, memory_mib_max=most)
    runs, reserved = 1, start
    while larger := place_again(
        request,
        reserved_mib=reserved,
        largest_mib=largest,
        learned_mib=learned,
        tries=Tries(runs - 1, runs_most),
    ):
        assert larger.memory_mib is not None
        assert reserved < larger.memory_mib <= min(largest, most or largest)
        request, reserved, runs = larger, larger.memory_mib, runs + 1
    assert runs <= runs_most
    assert runs == runs_most or reserved >= min(largest, most or largest)


# The largest device


def test_the_largest_device_that_would_do() -> None:
    nodes = [
        node("n1", device("a", 24), device("b", 80, gpu_type="H100")),
        node("n2", device("c", 40, room_gib=1)),
    ]
    assert largest_device_mib(gpu(8), nodes, POLICY) == 80 * GIB
    assert largest_device_mib(gpu(8, gpu_types=("A100",)), nodes, POLICY) == 40 * GIB, (
        "whatever is left of it now"
    )
    assert largest_device_mib(gpu(8, gpus=2), nodes, POLICY) == 24 * GIB, "the second of one node"
    assert largest_device_mib(gpu(8, gpus=3), nodes, POLICY) is None
    assert largest_device_mib(gpu(8, labels=(("zone", "b"),)), nodes, POLICY) is None
    assert largest_device_mib(gpu(8, cpus_milli=9000), nodes, POLICY) is None
    assert largest_device_mib(gpu(8), [], POLICY) is None


def test_headroom_and_a_display_are_taken_off() -> None:
    policy = Policy(headroom_mib=100, exclusive_foreign_mib=1024)
    assert idle_room_mib(device("a", 24, foreign_mib=300), policy) == 24 * GIB - 400
    assert idle_room_mib(device("a", 24, foreign_mib=5000), policy) == 24 * GIB - 1124, (
        "another's task will end"
    )


def test_what_can_not_be_used_now_counts_and_what_is_unknown_does_not() -> None:
    unreadable = replace(device("b", 80), total_mib=0)
    assert (
        largest_device_mib(gpu(8), [node("n", device("a", 24, usable=False), unreadable)], POLICY) == 24 * GIB
    )


@given(
    totals=st.lists(st.lists(st.integers(1, 100), min_size=0, max_size=4), min_size=1, max_size=4),
    gpus=st.integers(1, 3),
    headroom=st.integers(0, 2048),
)
def test_what_is_asked_of_the_largest_fits_and_more_does_not(
    totals: list[list[int]], gpus: int, headroom: int
) -> None:
    policy = Policy(headroom_mib=headroom)
    nodes = [
        node(f"n{i}", *(device(f"{i}-{j}", gib) for j, gib in enumerate(each)))
        for i, each in enumerate(totals)
    ]
    largest = largest_device_mib(gpu(1, gpus=gpus), nodes, policy)
    if largest:
        assert could_ever_fit(ResourceRequest(gpus=gpus, memory_mib=largest), nodes, policy)
    if largest is not None:
        assert not could_ever_fit(ResourceRequest(gpus=gpus, memory_mib=largest + 1), nodes, policy)
