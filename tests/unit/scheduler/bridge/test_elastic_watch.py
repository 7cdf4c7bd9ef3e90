"""Nodes that are asked for, come, serve and go back, on a fake cluster with a manual clock."""

from __future__ import annotations

from typing import Any

from celeray.scheduler.bridge.elastic_watch import ElasticWatch
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.cluster import EndCause, NodeGranted
from celeray.scheduler.elastic.node_types import GROUP_LABEL
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.model import Reason
from celeray.scheduler.states import ExecutorState, RunState

from .harness import GIB, Harness

START_S = 60.0
TYPE = {
    "gpus": 2,
    "gpu_type": "A10",
    "vram": "24GiB",
    "cpus": 8,
    "memory": "64GiB",
    "max": 2,
    "start_s": START_S,
    "resources": {"a10_node": 1},
    "labels": {"zone": "b"},
}


class Elastic(Harness):
    """A head without devices, and a type of nodes with two."""

    def __init__(self, **settings: Any) -> None:
        kind = TYPE | settings.pop("kind", {})
        super().__init__({"head": []}, elastic={"a10": kind}, elastic_idle_s=100, **settings)
        self.watch = ElasticWatch(self.dispatcher, self.cluster, self.settings)

    def step(self) -> None:
        for event in list(self.events) if hasattr(self, "watch") else ():
            self.watch.note(event)
        super().step()

    def wait(self, seconds: float) -> None:
        """Time passes second by second, as in the pool; executors that were asked for start."""
        for _ in range(round(seconds)):
            self.advance(1.0)
            self.watch.run_once(self.clock.monotonic())
            self.cluster.start_all()
            self.step()

    def come(self, node_id: str) -> None:
        """A node comes for the oldest ask."""
        ask_id = next(iter(self.cluster.asks.keys() - self.cluster.granted))
        self.cluster.labels[node_id] = {GROUP_LABEL: "a10", "zone": "b"}
        devices = [(f"{node_id}/{index}", "A10", 24 * GIB) for index in range(2)]
        self.cluster.grant(ask_id, node_id, devices, self.clock.monotonic())
        self.step()

    def end(self, *runs: Run) -> None:
        for run in runs:
            assert run.executor_id is not None
            self.cluster.finish(run.executor_id, seconds=30.0)
        self.step()

    @property
    def asks(self) -> int:
        return len(self.cluster.asks)

    def stands(self) -> ElasticStatus:
        [found] = self.watch.status(self.clock.monotonic())
        return found


def served() -> tuple[Elastic, Run]:
    """A bridge whose one task runs on a node that came for it."""
    bridge = Elastic()
    run = bridge.submit()
    bridge.wait(5)
    bridge.come("n1")
    bridge.wait(3)
    assert run.state is RunState.RUNNING
    return bridge, run


def test_a_task_that_only_a_type_could_hold_waits_and_a_node_is_asked_for() -> None:
    bridge = Elastic(never_fits_after_s=1)
    run = bridge.submit()

    bridge.wait(5)

    [ask] = bridge.cluster.asks.values()
    assert ask.bundle == {"GPU": 2.0, "a10_node": 1.0}
    assert ask.labels == {"zone": "b"}
    assert run.state is RunState.WAITING
    assert run.reason is not Reason.NEVER_FITS
    assert (bridge.stands().there, bridge.stands().asked) == (0, 1)


def test_one_that_no_type_could_hold_is_refused() -> None:
    bridge = Elastic(never_fits_after_s=1)
    run = bridge.submit(gib=80)

    bridge.wait(5)

    assert run.port.words == ["refused"]  # type: ignore[attr-defined]
    assert bridge.asks == 0


def test_one_picture_alone_asks_for_nothing() -> None:
    bridge = Elastic()
    run = bridge.submit()
    bridge.wait(1)
    assert bridge.asks == 0
    run.port.is_wanted = False  # type: ignore[attr-defined]

    for _ in range(5):
        bridge.wait(1)
        assert bridge.asks == 0


def test_the_node_comes_and_the_task_runs_there() -> None:
    bridge, run = served()

    assert bridge.cluster.executors[run.executor_id or ""].spec.node_id == "n1"
    assert bridge.asks == 0
    assert bridge.stands().there == 1


def test_a_node_whose_devices_were_leased_before_the_ask_got_them_answers_it() -> None:
    bridge = Elastic()
    bridge.submit()
    bridge.wait(5)
    asked = set(bridge.cluster.asks)

    bridge.cluster.labels["n1"] = {GROUP_LABEL: "a10", "zone": "b"}
    bridge.cluster.nodes["n1"] = (("n1/0", "A10", 24 * GIB), ("n1/1", "A10", 24 * GIB))
    bridge.wait(2)

    assert asked
    assert bridge.asks == 0
    assert bridge.stands().there == 1


def test_a_node_that_came_and_is_not_read_yet_is_not_asked_for_again() -> None:
    bridge = Elastic()
    bridge.submit()
    bridge.wait(5)

    [ask_id] = bridge.cluster.asks
    bridge.events.append(NodeGranted(ask_id, "n1"))
    bridge.step()
    asked = set()
    for _ in range(10):
        bridge.wait(1)
        asked |= set(bridge.cluster.asks)

    assert asked == set()
    # It never shows.
    bridge.wait(20)
    assert bridge.asks == 1


def test_a_node_that_is_taken_back_answers_no_ask() -> None:
    bridge, run = served()
    bridge.end(run)
    bridge.wait(106)
    for _ in range(7):
        bridge.submit(gib=8)
    # It takes its time to be leased again.
    devices = bridge.cluster.nodes.pop("n1")
    bridge.wait(8)
    assert bridge.cluster.released == frozenset()
    [oldest] = bridge.cluster.asks
    bridge.cluster.nodes["n1"] = devices
    bridge.wait(4)

    assert bridge.stands().there == 1
    assert list(bridge.cluster.asks) == [oldest]


def test_an_ask_is_withdrawn_when_its_task_is_gone() -> None:
    bridge = Elastic()
    run = bridge.submit()
    bridge.wait(5)
    run.port.is_wanted = False  # type: ignore[attr-defined]

    bridge.wait(3)

    assert bridge.asks == 0


def test_what_is_asked_for_is_asked_again_of_the_next_cluster() -> None:
    bridge = Elastic()
    bridge.submit()
    bridge.wait(5)
    before = set(bridge.cluster.asks)

    bridge.cluster.down()
    bridge.step()
    bridge.cluster.up(bridge.clock.monotonic())
    bridge.wait(5)

    assert len(bridge.cluster.asks) == 1
    assert not before & set(bridge.cluster.asks)


def test_tasks_whose_executors_do_not_start_ask_for_no_more() -> None:
    bridge, run = served()
    bridge.end(run)
    waiting = [bridge.submit(name="film.broken", gib=20) for _ in range(8)]
    bridge.step()
    for executor_id, executor in list(bridge.cluster.executors.items()):
        if executor.spec.executor_class.startswith("film.broken"):
            bridge.cluster.end(executor_id, EndCause.START_FAILED)
    bridge.step()

    bridge.dispatcher.fleet.starts.failed(waiting[0].task.executor_class, bridge.clock.monotonic() + 1000)
    bridge.wait(6)

    assert bridge.asks == 0


def test_an_idle_node_goes_back_after_its_executors_have_ended() -> None:
    bridge, run = served()
    executor_id = run.executor_id or ""
    bridge.end(run)

    bridge.wait(98)
    assert bridge.dispatcher.fleet.executors.get(executor_id).state is ExecutorState.IDLE  # type: ignore[union-attr]
    assert not bridge.cluster.released
    bridge.wait(8)

    assert executor_id not in bridge.cluster.executors
    assert bridge.cluster.released == {"n1"}
    assert (bridge.stands().there, bridge.stands().released) == (0, 1)
    assert [state.node_id for state in bridge.dispatcher.fleet.snapshot(0.0).nodes] == ["head"]
    bridge.cluster.remove("n1")
    bridge.wait(2)
    assert bridge.cluster.released == frozenset()
    assert bridge.stands().released == 0


def test_nothing_is_placed_on_a_node_that_is_leaving_unless_it_is_taken_back() -> None:
    bridge, run = served()
    bridge.end(run)
    bridge.wait(98)
    # The executor does not end at once.
    bridge.cluster.stop_executor = lambda executor_id, *, force: None  # type: ignore[method-assign]
    bridge.wait(4)
    assert bridge.stands().leaving == 1

    again = bridge.submit("film.other")
    bridge.step()
    started = {executor.spec.executor_class for executor in bridge.cluster.executors.values()}
    assert started == {run.task.executor_class}
    bridge.wait(4)

    assert bridge.stands().leaving == 0
    assert again.state is RunState.RUNNING
    assert bridge.asks == 0


def test_what_was_given_back_and_is_still_there_serves_again_without_an_ask() -> None:
    bridge, run = served()
    bridge.end(run)
    bridge.wait(106)
    assert bridge.cluster.released == {"n1"}

    again = bridge.submit()
    bridge.wait(4)

    assert bridge.cluster.released == frozenset()
    assert again.state is RunState.RUNNING
    assert bridge.asks == 0


def test_a_late_reading_of_a_node_that_was_given_back_does_not_count() -> None:
    bridge, run = served()
    bridge.end(run)
    bridge.wait(106)

    bridge.cluster.released = frozenset()
    bridge.cluster.read_all(bridge.clock.monotonic())
    bridge.step()

    assert [state.node_id for state in bridge.dispatcher.fleet.snapshot(0.0).nodes] == ["head"]


def test_min_nodes_stay() -> None:
    bridge = Elastic(kind={"min": 1})
    run = bridge.submit()
    bridge.wait(5)
    bridge.come("n1")
    bridge.wait(3)
    bridge.end(run)

    bridge.wait(300)

    assert bridge.stands().there == 1


def test_nothing_flaps_under_a_constant_load() -> None:
    """Two tasks of 30 s after each other all the time: one node is asked for, once, and stays."""
    bridge, run = served()
    asked: set[str] = set()
    running = [run]
    for _ in range(20):
        running.append(bridge.submit())
        bridge.wait(30)
        asked |= set(bridge.cluster.asks)
        assert running[0].state is RunState.RUNNING
        bridge.end(running.pop(0))
        assert not bridge.cluster.released
        assert bridge.stands().leaving == 0

    assert asked == set()
    assert bridge.stands().there == 1


def test_without_a_type_nothing_is_said_to_the_cluster() -> None:
    bridge = Harness()
    watch = ElasticWatch(bridge.dispatcher, bridge.cluster, bridge.settings)
    bridge.submit(gib=80)
    bridge.advance(10)
    bridge.cluster.scale = None  # type: ignore[assignment, method-assign]

    watch.run_once(bridge.clock.monotonic())

    assert watch.status(bridge.clock.monotonic()) == ()
