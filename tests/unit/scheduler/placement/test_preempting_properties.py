"""What holds of preemption for every cluster and every set of tasks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.model import (
    DeviceState,
    NodeState,
    Reason,
    ResourceRequest,
    Snapshot,
    WaitingTask,
    WarmExecutor,
)
from celeray.scheduler.placement import CycleInput, Order, Policy, dump_cycle, load_cycle, place
from celeray.scheduler.placement.preempting import URGENT

ON = Policy(order=Order(preempt=True))
TOTAL = 24

requests = st.builds(
    lambda gpus, memory, whole, cpus, host: ResourceRequest(
        gpus=gpus,
        memory_mib=None if whole or not gpus else memory,
        exclusive=gpus > 0 and whole,
        cpus_milli=cpus * 1000,
        host_memory_mib=host,
    ),
    st.sampled_from([0, 1, 1, 2, 2]),
    st.sampled_from([4, 8, 12, 18]),
    st.booleans(),
    st.sampled_from([0, 0, 2, 7]),
    st.sampled_from([0, 0, 8, 30]),
)


@st.composite
def executors_on(draw: st.DrawFn, node: str, uuids: list[str]) -> list[WarmExecutor]:
    """Executors that a node can hold together."""
    room, found = dict.fromkeys(uuids, TOTAL), list[WarmExecutor]()
    for number in range(draw(st.integers(1, 7))):
        held = draw(st.lists(st.sampled_from(uuids), min_size=1, max_size=2, unique=True)) if uuids else []
        whole = draw(st.sampled_from([False, False, True])) and bool(held)
        mib = TOTAL if whole else draw(st.sampled_from([6, 11, 12, 20]))
        if any(room[uuid] < mib for uuid in held):
            continue
        for uuid in held:
            room[uuid] -= mib
        idle = draw(st.integers(0, 4)) == 0
        found.append(
            WarmExecutor(
                f"{node}e{number}",
                draw(st.sampled_from("ab")),
                node,
                tuple(held),
                mib if held else 0,
                whole,
                idle,
                float(number),
                host_memory_mib=draw(st.integers(0, 8)),
                cpus_milli=0 if idle else draw(st.integers(0, 2)) * 1000,
                start_ms=draw(st.integers(0, 3)),
                preemptible=not idle and draw(st.integers(0, 6)) > 0,
                priority=draw(st.sampled_from([1, 2, 5, 8, 8, 9])),
                ran_ms=draw(st.integers(0, 100)),
            )
        )
    return found


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    nodes, executors = [], list[WarmExecutor]()
    for n in range(draw(st.integers(1, 2))):
        uuids = [f"n{n}-{i}" for i in range(draw(st.sampled_from([0, 1, 1, 2, 3])))]
        here = draw(executors_on(f"n{n}", uuids))
        executors += here
        devices = tuple(
            _device(uuid, [e for e in here if uuid in e.device_uuids], draw(st.sampled_from([0, 0, 6])))
            for uuid in uuids
        )
        cpus = 10_000 - sum(e.cpus_milli for e in here)
        nodes.append(
            NodeState(
                f"n{n}", f"n{n}", 10_000, cpus, 40, 40 - sum(e.host_memory_mib for e in here), {}, devices
            )
        )
    return Snapshot(tuple(nodes), tuple(executors))


def _device(uuid: str, here: list[WarmExecutor], foreign: int) -> DeviceState:
    left = TOTAL - foreign - sum(e.memory_mib for e in here)
    return DeviceState(
        uuid,
        "T4",
        TOTAL,
        max(0, left),
        holders=len(here),
        exclusive=any(e.exclusive for e in here),
        foreign_mib=foreign,
        overrun_mib=max(0, -left),
    )


@st.composite
def waiting_tasks(draw: st.DrawFn) -> tuple[WaitingTask, ...]:
    one = st.tuples(requests, st.sampled_from([8, 9, 10, 10]), st.sampled_from([0, 0, -10_000_000]))
    return tuple(
        WaitingTask(f"t{n}", f"c{hash(request)}", request, priority, n, arrived)
        for n, (request, priority, arrived) in enumerate(draw(st.lists(one, min_size=1, max_size=5)))
    )


def without(snapshot: Snapshot, executor_ids: set[str]) -> Snapshot:
    """The snapshot once these have ended and their room is back."""
    left = tuple(e for e in snapshot.executors if e.executor_id not in executor_ids)
    nodes = []
    for node in snapshot.nodes:
        gone = [e for e in snapshot.executors if e.executor_id in executor_ids and e.node_id == node.node_id]
        devices = tuple(
            _device(d.uuid, [e for e in left if d.uuid in e.device_uuids], d.foreign_mib)
            for d in node.devices
        )
        nodes.append(
            replace(
                node,
                devices=devices,
                cpus_free_milli=node.cpus_free_milli + sum(e.cpus_milli for e in gone),
                memory_free_mib=node.memory_free_mib + sum(e.host_memory_mib for e in gone),
            )
        )
    return Snapshot(tuple(nodes), left)


@given(snapshots(), waiting_tasks())
@settings(max_examples=60, deadline=None)
def test_only_preemptible_runs_of_lower_priority_end_and_only_for_urgent_tasks(
    snapshot: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    decisions = place(tasks, snapshot, ON)
    by_id = {executor.executor_id: executor for executor in snapshot.executors}
    assert len(decisions.preemptions) <= 1
    for preemption in decisions.preemptions:
        task = next(task for task in tasks if task.sequence == preemption.sequence)
        assert task.priority >= URGENT
        assert decisions.waiting[task.sequence] is Reason.RECLAIMING
        assert preemption.executor_ids
        for executor_id in preemption.executor_ids:
            executor = by_id[executor_id]
            assert executor.preemptible
            assert not executor.idle
            assert executor.priority < min(URGENT, task.priority)
            assert executor.node_id == preemption.node_id


@given(snapshots(), waiting_tasks())
@settings(max_examples=60, deadline=None)
def test_the_task_fits_where_its_room_was_made_and_only_since_all_of_them_ended(
    snapshot: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    decisions = place(tasks[:1], snapshot, ON)
    for preemption in decisions.preemptions:
        ended = {*preemption.executor_ids, *decisions.evictions}
        after = without(snapshot, ended)
        there = Snapshot(tuple(n for n in after.nodes if n.node_id == preemption.node_id), ())
        placed = place(tasks[:1], there, Policy()).placements
        assert [placement.sequence for placement in placed] == [preemption.sequence]
        for kept in ended:
            node_only = without(snapshot, ended - {kept})
            there = Snapshot(tuple(n for n in node_only.nodes if n.node_id == preemption.node_id), ())
            assert not place(tasks[:1], there, Policy()).placements, f"{kept} need not have ended"


@given(snapshots(), waiting_tasks())
@settings(max_examples=40, deadline=None)
def test_switched_off_nothing_ends_and_all_else_is_decided_as_ever(
    snapshot: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    off = place(tasks, snapshot, Policy())
    assert not off.preemptions
    stubborn = replace(snapshot, executors=tuple(replace(e, preemptible=False) for e in snapshot.executors))
    assert place(tasks, stubborn, ON) == off


@given(snapshots(), waiting_tasks())
@settings(max_examples=40, deadline=None)
def test_the_same_input_gives_the_same_output_and_survives_its_dump(
    snapshot: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    decisions = place(tasks, snapshot, ON)
    again = load_cycle(
        dump_cycle(CycleInput(tasks, replace(snapshot, preemptions=decisions.preemptions), ON))
    )
    assert again.snapshot.preemptions == decisions.preemptions
    assert place(again.waiting, replace(again.snapshot, preemptions=()), again.policy) == decisions


@given(snapshots(), waiting_tasks())
@settings(max_examples=40, deadline=None)
def test_while_its_room_comes_back_nothing_more_ends_for_a_task(
    snapshot: Snapshot, tasks: tuple[WaitingTask, ...]
) -> None:
    decisions = place(tasks, snapshot, ON)
    for preemption in decisions.preemptions:
        ended = {*preemption.executor_ids, *decisions.evictions}
        ending = replace(
            snapshot,
            executors=tuple(e for e in snapshot.executors if e.executor_id not in ended),
            preemptions=decisions.preemptions,
        )
        firsts = tuple(replace(t, first=t.sequence == preemption.sequence) for t in tasks)
        later = place(firsts, ending, ON)
        assert all(other.sequence != preemption.sequence for other in later.preemptions)
        placed = {
            placement.sequence: placement for placement in later.placements if not placement.executor_id
        }
        # It may have a place by now, since what was placed beside it is not carried out here.
        if preemption.sequence not in placed:
            assert not any(set(p.device_uuids) & set(preemption.device_uuids) for p in placed.values())
