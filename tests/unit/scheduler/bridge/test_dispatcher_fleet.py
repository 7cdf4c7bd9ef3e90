"""The fleet: executors shared, evicted, replaced, given up, and rebuilt when the cluster was away."""

from __future__ import annotations

from celeray.scheduler.bridge import picture
from celeray.scheduler.bridge.fleet import ExecutorLimits
from celeray.scheduler.cluster import EndCause, NodeLost
from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.placement import dump_cycle, load_cycle, place
from celeray.scheduler.states import ExecutorState

from .harness import GIB, Harness, port


def states(bridge: Harness) -> list[ExecutorState]:
    return [executor.state for executor in bridge.dispatcher.fleet.executors]


def test_an_idle_executor_makes_room_for_another_class() -> None:
    bridge = Harness()
    run = bridge.submit("film.one", 20)
    executor_id = bridge.begin(run)
    bridge.cluster.finish(executor_id)
    bridge.step()
    other = bridge.submit("film.two", 20)
    bridge.step()
    assert executor_id not in bridge.cluster.executors
    assert other.reason is Reason.RECLAIMING
    bridge.advance(1.0)
    assert bridge.begin(other)
    assert port(other).words == ["begun"]


def test_a_gang_starts_on_the_closest_devices_and_the_nodes_status_shows_how_they_are_linked() -> None:
    bridge = Harness({"n1": [(f"GPU-{letter}", "A100", 24 * GIB) for letter in "abc"]})
    bridge.cluster.closeness["n1"] = ((0, 10, 10), (10, 0, 400), (10, 400, 0))
    bridge.advance(1.0)

    run = bridge.submit(request=ResourceRequest(gpus=2, exclusive=True))
    bridge.step()

    assert bridge.cluster.executors[bridge.begin(run)].spec.device_uuids == ("GPU-b", "GPU-c")
    (shown,) = picture.nodes(bridge.dispatcher, bridge.clock.monotonic())
    assert shown.links == (("X", "SYS", "SYS"), ("SYS", "X", "NV4"), ("SYS", "NV4", "X"))


def test_room_is_not_given_out_while_nvml_still_shows_the_memory() -> None:
    bridge = Harness()
    run = bridge.submit("film.one", 20)
    executor_id = bridge.begin(run)
    bridge.cluster.end(executor_id)
    bridge.step()
    bridge.cluster.foreign_mib["GPU-a"] = 20 * GIB
    other = bridge.submit("film.two", 20)
    bridge.advance(1.0)
    assert other.reason is Reason.VRAM
    assert not bridge.cluster.executors
    bridge.cluster.foreign_mib.clear()
    bridge.advance(1.0)
    assert bridge.begin(other)


def test_foreign_memory_keeps_tasks_away_within_one_reading() -> None:
    bridge = Harness()
    bridge.cluster.foreign_mib["GPU-a"] = 20 * GIB
    bridge.advance(1.0)
    run = bridge.submit(gib=8)
    bridge.step()
    assert run.reason is Reason.VRAM


def test_executors_are_replaced_after_their_tasks_or_when_too_fat() -> None:
    bridge = Harness(limits=ExecutorLimits(max_runs=2, max_rss_mib=500))
    seen = []
    for rss in (100, 100, 501, 100):
        run = bridge.submit()
        executor_id = run.executor_id or bridge.begin(run)
        seen.append(executor_id)
        bridge.cluster.finish(executor_id, rss_mib=rss)
        bridge.step()
        bridge.advance(1.0)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_recycle_replaces_idle_executors_now_and_busy_ones_after_their_task() -> None:
    bridge = Harness()
    busy = bridge.submit("film.busy")
    busy_id = bridge.begin(busy)
    idle_id = bridge.begin(bridge.submit("film.idle"))
    bridge.cluster.finish(idle_id)
    bridge.step()
    bridge.dispatcher.fleet.recycle()
    assert list(bridge.cluster.executors) == [busy_id]
    bridge.cluster.finish(busy_id)
    bridge.step()
    assert not bridge.cluster.executors


def test_idle_executors_end_after_their_time() -> None:
    bridge = Harness(executor_idle_timeout_s=60)
    executor_id = bridge.begin(bridge.submit())
    bridge.cluster.finish(executor_id)
    bridge.step()
    bridge.advance(60.0)
    assert executor_id in bridge.cluster.executors
    bridge.advance(1.0)
    assert executor_id not in bridge.cluster.executors


def test_an_executor_that_does_not_end_is_killed() -> None:
    bridge = Harness()
    run = bridge.submit("film.one", 20)
    executor_id = bridge.begin(run)
    bridge.cluster.finish(executor_id)
    bridge.step()
    stubborn = bridge.cluster.executors[executor_id]
    bridge.cluster.stop_executor = lambda executor_id, force: (
        force
        and bridge.cluster.end(  # type: ignore[method-assign]
            executor_id, EndCause.STOPPED
        )
    )
    bridge.submit("film.two", 20)
    bridge.step()
    assert stubborn.spec.executor_id in bridge.cluster.executors
    bridge.advance(10.0)
    assert not any(e.spec.executor_id == executor_id for e in bridge.cluster.executors.values())


def test_a_start_that_hangs_is_given_up_and_tried_again_after_a_backoff() -> None:
    bridge = Harness(executor_start_timeout_s=30)
    run = bridge.submit()
    bridge.step()
    (first,) = bridge.cluster.executors
    bridge.advance(31.0)
    assert first not in bridge.cluster.executors
    assert run.reason is Reason.EXECUTOR_FAILED
    bridge.advance(1.0)
    (second,) = bridge.cluster.executors
    assert second != first


def test_failed_starts_back_off_further_each_time_and_a_success_forgets_them() -> None:
    bridge = Harness()
    run = bridge.submit()
    for wait in (1.0, 2.0, 4.0):
        bridge.step()
        (executor_id,) = bridge.cluster.executors
        bridge.cluster.end(executor_id, EndCause.START_FAILED, "ImportError: proj")
        bridge.step()
        bridge.advance(wait - 0.1)
        assert not bridge.cluster.executors
        bridge.advance(0.2)
    assert bridge.begin(run)
    assert not bridge.dispatcher.fleet.starts.blocked(run.task.executor_class, bridge.clock.monotonic())


def test_no_more_executors_start_at_once_than_allowed() -> None:
    bridge = Harness({"n1": [("GPU-a", "A100", 80 * GIB)]}, executor_start_concurrency=2)
    runs = [bridge.submit(gib=8) for _ in range(5)]
    bridge.step()
    assert states(bridge) == [ExecutorState.STARTING] * 2
    assert {run.reason for run in runs} == {Reason.STARTING}
    bridge.cluster.start_all()
    bridge.step()
    assert sorted(states(bridge)) == [ExecutorState.BUSY] * 2 + [ExecutorState.STARTING] * 2


def test_cpus_are_booked_while_an_executor_starts_and_while_it_runs() -> None:
    bridge = Harness(cpus=2)
    request = ResourceRequest(cpus_milli=1000)
    runs = [bridge.submit("film.cpu", request=request) for _ in range(3)]
    bridge.step()
    assert len(bridge.cluster.executors) == 2
    bridge.cluster.start_all()
    bridge.step()
    assert [bool(run.executor_id) for run in runs] == [True, True, False]
    assert runs[2].reason is Reason.CPUS
    assert runs[0].executor_id is not None
    bridge.cluster.finish(runs[0].executor_id)
    bridge.step()
    assert runs[2].executor_id == runs[0].executor_id


def test_a_lost_node_loses_its_runs_and_its_devices() -> None:
    bridge = Harness()
    run = bridge.submit()
    bridge.begin(run)
    bridge.events.append(NodeLost("n1"))
    waiting = bridge.submit()
    bridge.step()
    assert port(run).words == ["begun", "lost"]
    assert waiting.reason is Reason.CLUSTER_DOWN
    assert len(bridge.dispatcher.fleet.executors) == 0


def test_work_goes_on_when_the_cluster_is_back() -> None:
    bridge = Harness()
    run = bridge.submit()
    bridge.begin(run)
    waiting = bridge.submit()
    bridge.cluster.down("GCS is gone")
    bridge.step()
    assert port(run).words == ["begun", "lost"]
    assert waiting.reason is Reason.CLUSTER_DOWN
    assert port(waiting).told == []
    bridge.advance(60.0)
    bridge.cluster.up(bridge.clock.monotonic())
    bridge.step()
    assert bridge.begin(waiting)


def test_the_last_cycle_replays_from_its_dump() -> None:
    bridge = Harness()
    bridge.submit(gib=20)
    bridge.submit("film.other", 20)
    bridge.step()
    cycle = bridge.dispatcher.last_cycle
    assert cycle is not None
    again = load_cycle(dump_cycle(cycle))
    assert place(again.waiting, again.snapshot, again.policy) == place(
        cycle.waiting, cycle.snapshot, cycle.policy
    )


def test_urgent_before_old_and_small_before_big_in_one_window() -> None:
    bridge = Harness()
    big = [bridge.submit("film.big", 24, priority=5) for _ in range(20)]
    executor_id = bridge.begin(big[0])
    urgent = bridge.submit("film.urgent", 24, priority=10)
    bridge.step()
    bridge.cluster.finish(executor_id)
    bridge.step()
    assert executor_id not in bridge.cluster.executors, "its idle executor makes room for the urgent class"
    bridge.advance(1.0)
    bridge.begin(urgent)
    assert [run.executor_id for run in big[1:]] == [None] * 19
