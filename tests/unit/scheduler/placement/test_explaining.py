"""Verdicts by node and device, against what a cycle decides of the same request alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.model import Reason, ResourceRequest, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement import Policy, explain, place

from .clusters import GIB, POLICY, device, gpu, node, snapshot, warm
from .test_place_properties import requests, snapshots


def test_each_device_says_why_and_who_has_it() -> None:
    running = warm(1, "film.generate", "a", "a0", gib=20, idle=False, ends_in_ms=5_000)
    cluster = snapshot(
        node("a", device("a0", 24, 4, holders=1), device("a1", 8), device("a2", usable=False)),
        node("b", device("b0", 24, 24, gpu_type="T4")),
        executors=(running,),
    )
    found = explain(gpu(12, gpu_types=("A100",)), cluster, POLICY)
    first, second = found.nodes
    assert [one.reason for one in first.devices] == [Reason.VRAM, Reason.VRAM, Reason.UNUSABLE]
    assert first.devices[0].held_by == (running,)
    assert (first.devices[0].total_mib, first.devices[0].schedulable_mib) == (24 * GIB, 4 * GIB)
    assert [one.reason for one in second.devices] == [Reason.GPU_TYPE]
    assert (first.reason, second.reason) == (Reason.VRAM, Reason.GPU_TYPE)
    assert (first.could_ever, second.could_ever) == (True, False)
    assert (found.free_in_ms, found.free_on) == (5_000, "a")


def test_an_idle_executor_of_its_class_takes_it_whatever_the_devices_say() -> None:
    idle = warm(7, "mine", "a", "a0", gib=20)
    cluster = snapshot(node("a", device("a0", 24, 4, holders=1)), executors=(idle,))
    found = explain(gpu(20), cluster, POLICY, "mine")
    assert found.nodes[0].reason is Reason.VRAM
    assert found.warm is not None
    assert (found.warm.executor_id, found.free_in_ms, found.free_on) == ("e7", 0, "a")
    assert explain(gpu(20), cluster, POLICY, "another").warm is None
    assert explain(gpu(21), cluster, POLICY, "mine").warm is None


@st.composite
def with_idle_executors(draw: st.DrawFn) -> Snapshot:
    """Some holders are idle executors of another class, with a part of what is not free on their device."""
    found = draw(snapshots())
    executors = []
    for one in found.nodes:
        for each in one.devices:
            taken = each.total_mib - each.schedulable_mib
            if each.holders and taken and draw(st.booleans()):
                executors.append(
                    WarmExecutor(
                        f"e-{each.uuid}",
                        "other",
                        one.node_id,
                        (each.uuid,),
                        draw(st.integers(1, taken)),
                        exclusive=False,
                        idle=True,
                        last_used=0.0,
                        stays_ms=draw(st.sampled_from([0, 1_000])),
                    )
                )
    return Snapshot(found.nodes, tuple(executors))


@given(requests, with_idle_executors())
@settings(max_examples=200, deadline=None)
def test_a_cycle_places_it_alone_exactly_where_some_node_has_room(
    request: ResourceRequest, found: Snapshot
) -> None:
    said = explain(request, found, Policy())
    decided = place((WaitingTask("t", "c", request, 5, 1),), found, Policy())
    has_room = {one.node_id for one in said.nodes if one.reason is None}
    assert bool(decided.placements) is bool(has_room)
    if decided.placements:
        assert decided.placements[0].node_id in has_room
        uuids = {d.uuid for one in said.nodes for d in one.devices if d.reason is None}
        assert set(decided.placements[0].device_uuids) <= uuids
        return
    reason = decided.waiting[1]
    if decided.evictions:
        assert reason is Reason.RECLAIMING
        return
    no_device_yet = request.gpus > 0 and not any(one.devices for one in said.nodes)
    could = any(one.could_ever for one in said.nodes) or no_device_yet
    assert (reason is Reason.NEVER_FITS) is not could
    if could:
        assert reason in {one.reason for one in said.nodes}
