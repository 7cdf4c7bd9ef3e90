"""What holds for every cluster and every set of tasks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from celeray.scheduler.model import DeviceState, NodeState, Reason, ResourceRequest, Snapshot, WaitingTask
from celeray.scheduler.placement import CycleInput, Policy, dump_cycle, load_cycle, place

devices = st.builds(
    lambda total, used, holders: (total, max(0, total - used), holders),
    st.sampled_from([8, 16, 24, 80]),
    st.integers(0, 30),
    st.integers(0, 2),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    nodes = []
    for n in range(draw(st.integers(1, 4))):
        states = tuple(
            DeviceState(f"n{n}-{i}", "T4", total, room, holders=holders)
            for i, (total, room, holders) in enumerate(draw(st.lists(devices, max_size=4)))
        )
        cpus = draw(st.integers(0, 8)) * 1000
        nodes.append(NodeState(f"n{n}", f"n{n}", 8000, cpus, 64, draw(st.integers(0, 64)), {}, states))
    return Snapshot(tuple(nodes))


requests = st.builds(
    lambda gpus, memory, exclusive, cpus, host: ResourceRequest(
        gpus=gpus,
        memory_mib=memory if gpus else None,
        exclusive=gpus > 0 and (exclusive or memory is None),
        cpus_milli=cpus * 1000,
        host_memory_mib=host,
    ),
    st.integers(0, 3),
    st.none() | st.integers(1, 80),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 32),
)


@st.composite
def waiting_tasks(draw: st.DrawFn) -> tuple[WaitingTask, ...]:
    found = draw(st.lists(st.tuples(requests, st.integers(1, 10)), max_size=8))
    return tuple(
        WaitingTask(f"t{n}", f"c{hash(request)}", request, priority, n)
        for n, (request, priority) in enumerate(found)
    )


@given(snapshots(), waiting_tasks())
@settings(max_examples=200, deadline=None)
def test_never_over_what_is_schedulable(snapshot: Snapshot, tasks: tuple[WaitingTask, ...]) -> None:
    decisions = place(tasks, snapshot, Policy())
    by_id = {task.task_id: task for task in tasks}
    room = {d.uuid: d.schedulable_mib for n in snapshot.nodes for d in n.devices}
    holders = {d.uuid: d.holders for n in snapshot.nodes for d in n.devices}
    node_of = {d.uuid: n.node_id for n in snapshot.nodes for d in n.devices}
    cpus = {n.node_id: n.cpus_free_milli for n in snapshot.nodes}
    memory = {n.node_id: n.memory_free_mib for n in snapshot.nodes}
    for placement in decisions.placements:
        request = by_id[placement.task_id].request
        assert len(set(placement.device_uuids)) == request.gpus, "a gang has all of its devices or none"
        assert {node_of[uuid] for uuid in placement.device_uuids} <= {placement.node_id}
        for uuid in placement.device_uuids:
            room[uuid] -= placement.memory_mib
            if request.exclusive:
                assert holders[uuid] == 0
            holders[uuid] += 1
        cpus[placement.node_id] -= request.cpus_milli
        memory[placement.node_id] -= request.host_memory_mib
    assert min(room.values(), default=0) >= 0
    assert min(cpus.values()) >= 0
    assert min(memory.values()) >= 0


@given(snapshots(), waiting_tasks())
@settings(max_examples=100, deadline=None)
def test_every_task_has_a_place_or_a_reason(snapshot: Snapshot, tasks: tuple[WaitingTask, ...]) -> None:
    decisions = place(tasks, snapshot, Policy())
    started = {p.sequence for p in decisions.placements}
    assert started | set(decisions.waiting) == {task.sequence for task in tasks}
    assert all(decisions.waiting[s] is Reason.STARTING for s in started & set(decisions.waiting))


@given(snapshots(), waiting_tasks())
@settings(max_examples=100, deadline=None)
def test_a_dumped_cycle_decides_the_same_again(snapshot: Snapshot, tasks: tuple[WaitingTask, ...]) -> None:
    cycle = CycleInput(tasks, snapshot, Policy())
    again = load_cycle(dump_cycle(cycle))
    assert again == cycle
    assert place(again.waiting, again.snapshot, again.policy) == place(tasks, snapshot, Policy())


@given(requests, snapshots())
@settings(max_examples=100, deadline=None)
def test_what_fits_an_idle_cluster_alone_is_never_refused(
    request: ResourceRequest, snapshot: Snapshot
) -> None:
    idle = Snapshot(
        tuple(
            NodeState(
                n.node_id,
                n.name,
                n.cpus_milli,
                n.cpus_milli,
                n.memory_mib,
                n.memory_mib,
                {},
                tuple(DeviceState(d.uuid, d.gpu_type, d.total_mib, d.total_mib) for d in n.devices),
            )
            for n in snapshot.nodes
        )
    )
    fits = any(
        request.cpus_milli <= n.cpus_milli
        and request.host_memory_mib <= n.memory_mib
        and sum(d.total_mib >= (request.memory_mib or 1) for d in n.devices) >= request.gpus
        for n in idle.nodes
    )
    decisions = place([WaitingTask("t", "c", request, 5, 1)], idle, Policy())
    assert bool(decisions.placements) == fits
    # Where there is no device at all, they are still to come.
    none = request.gpus > 0 and not any(n.devices for n in idle.nodes)
    assert fits or decisions.waiting == {1: Reason.DEVICES if none else Reason.NEVER_FITS}
