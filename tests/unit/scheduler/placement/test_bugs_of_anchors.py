"""Bugs that other schedulers had, each by its name, as it would show here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from celeray.scheduler.model import Isolation, Reason, ResourceRequest
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.placement.scores import SCORES

from .clusters import GIB, POLICY, device, gpu, node, snapshot, task

FRESH = {"isolation": Isolation.FRESH}


def test_ollama_18349_devices_go_by_uuid_and_not_by_index() -> None:
    cards = [device("uuid-large", 80, 80), device("uuid-small", 24, 1, holders=1)]
    for order in (cards, cards[::-1]):
        decisions = place([task(1, gpu(20))], snapshot(node("a", *order)), POLICY)
        assert decisions.placements[0].device_uuids == ("uuid-large",)


def test_volcano_2859_tasks_decided_together_do_not_share_one_room() -> None:
    decisions = place(
        [task(n, gpu(16, **FRESH)) for n in range(10)], snapshot(node("a", device("a0", 24))), POLICY
    )
    assert len(decisions.placements) == 1


@pytest.mark.parametrize(("name", "nodes", "devices"), [("best_fit", 1, 2), ("spread", 2, 4)])
def test_hami_1589_binpack_and_spread_hold_at_both_levels(name: str, nodes: int, devices: int) -> None:
    cluster = snapshot(*(node(n, device(f"{n}0", 24), device(f"{n}1", 24)) for n in ("a", "b")))
    decisions = place([task(n, gpu(12, **FRESH)) for n in range(4)], cluster, Policy(name=name))
    assert len({p.node_id for p in decisions.placements}) == nodes
    assert len({p.device_uuids for p in decisions.placements}) == devices


def test_hami_1806_load_decides_before_what_is_near() -> None:
    cluster = snapshot(
        node("near", device("n0", 24, 4, holders=1), device("n1", 24, 4, holders=1)),
        node("far", device("f0", 24)),
    )
    assert place([task(1, gpu(8))], cluster, POLICY).placements[0].node_id == "far"


def test_kai_1369_a_task_on_several_devices_takes_its_memory_of_each() -> None:
    cluster = snapshot(node("a", *(device(f"a{n}", 24) for n in range(4))))
    decisions = place([task(1, gpu(20, gpus=4, **FRESH)), task(2, gpu(8, **FRESH))], cluster, POLICY)
    assert [p.task_id for p in decisions.placements] == ["t1"]
    assert decisions.waiting == {2: Reason.VRAM}


def test_volcano_4713_one_node_with_cards_of_two_sizes() -> None:
    cluster = snapshot(node("a", device("a16", 16), device("a24", 24)))
    assert place([task(1, gpu(20))], cluster, POLICY).placements[0].device_uuids == ("a24",)
    assert place([task(1, gpu(14))], cluster, POLICY).placements[0].device_uuids == ("a16",)
    both = place([task(1, gpu(14, gpus=2))], cluster, POLICY).placements[0]
    assert both.memory_mib == 14 * GIB
    assert place([task(1, gpu(20, gpus=2))], cluster, POLICY).waiting == {1: Reason.NEVER_FITS}


def test_kai_706_a_total_that_is_not_known_is_neither_free_nor_too_small() -> None:
    unknown = replace(device("u0", 24), total_mib=0, schedulable_mib=0, usable=False)
    decisions = place([task(1, gpu(8))], snapshot(node("a", unknown)), POLICY)
    assert decisions.placements == ()
    assert decisions.waiting == {1: Reason.UNUSABLE}


def test_hami_2630_too_much_for_now_waits_and_too_much_for_ever_is_said_to_be() -> None:
    cluster = snapshot(node("a", device("a0", 24, 4, holders=1)))
    assert place([task(1, gpu(20))], cluster, POLICY).waiting == {1: Reason.VRAM}
    assert place([task(1, gpu(25))], cluster, POLICY).waiting == {1: Reason.NEVER_FITS}


def test_kuberay_2098_only_devices_that_were_leased_are_given_out() -> None:
    """Of a device that Ray did not lease the ledger gives out nothing."""
    granted, not_granted = (
        device("a0", 24),
        replace(device("a1", 24), schedulable_mib=0, total_mib=0, usable=False),
    )
    decisions = place(
        [task(n, gpu(24, **FRESH)) for n in (1, 2)], snapshot(node("a", granted, not_granted)), POLICY
    )
    assert [p.device_uuids for p in decisions.placements] == [("a0",)]


@pytest.mark.parametrize("name", sorted(SCORES))
def test_kai_scheduler_2153_sixteen_half_devices_at_once_are_two_a_card(name: str) -> None:
    cluster = snapshot(*(node(n, *(device(f"{n}{i}", 24) for i in range(4)), cpus=64) for n in ("a", "b")))
    decisions = place([task(n, gpu(12, **FRESH)) for n in range(16)], cluster, Policy(name=name))
    assert Counter(p.device_uuids[0] for p in decisions.placements) == dict.fromkeys(
        [f"{n}{i}" for n in ("a", "b") for i in range(4)], 2
    )


def test_ray_52133_parts_on_two_nodes_do_not_hang() -> None:
    cluster = snapshot(node("a", device("a0", 24, 12, holders=1)), node("b", device("b0", 24, 12, holders=1)))
    decisions = place([task(n, gpu(12, **FRESH)) for n in (1, 2)], cluster, POLICY)
    assert {p.node_id for p in decisions.placements} == {"a", "b"}


def test_ray_52915_a_whole_device_and_a_quarter_never_share() -> None:
    cluster = snapshot(node("a", device("a0", 24)))
    whole = ResourceRequest(gpus=1, exclusive=True, **FRESH)  # type: ignore[arg-type]
    decisions = place([task(1, whole), task(2, gpu(6, **FRESH))], cluster, POLICY)
    assert [p.task_id for p in decisions.placements] == ["t1"]
    assert decisions.waiting == {2: Reason.EXCLUSIVE}
