"""What every `Cluster` must do. Subclass it and give the fixtures `live` and `place`."""

from __future__ import annotations

from celeray.scheduler.cluster import (
    EndCause,
    ExecutorEnded,
    ExecutorStarted,
    NodeAsk,
    NodeGranted,
    NodeRead,
    RunEnded,
    RunReturned,
    RunSpec,
    RunStarted,
)
from tests.integration.actors.live import LiveCluster, payload

Place = tuple[str, tuple[str, ...]]
"""A node and devices on it that an executor may have."""


class ClusterContract:
    """Events come in the order in which they happened to one executor, and its end comes once."""

    def test_a_warm_executor_takes_one_run_after_another(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        spec = live.spec(node, *devices)
        live.start(spec)
        assert live.run(spec, "simple.noop")[:2] == (0, "None")
        assert live.run(spec, "simple.noop")[:2] == (0, "None")
        live.cluster.stop_executor(spec.executor_id, force=False)
        assert live.ended(spec).cause is EndCause.STOPPED
        assert self._kinds(live, spec.executor_id) == [ExecutorStarted, RunEnded, RunEnded, ExecutorEnded]

    def test_a_batch_runs_in_order_and_each_run_ends_for_itself(
        self, live: LiveCluster, place: Place
    ) -> None:
        node, devices = place
        spec = live.spec(node, *devices)
        live.start(spec)
        run_ids = [9001, 9002, 9003]
        live.run_batch(spec, *(RunSpec(run_id, "t", payload("simple.noop")) for run_id in run_ids))
        assert [live.outcome(run_id)[:2] for run_id in run_ids] == [(0, "None")] * 3
        assert live.run(spec, "simple.noop")[:2] == (0, "None")
        live.cluster.stop_executor(spec.executor_id, force=False)
        assert live.ended(spec).cause is EndCause.STOPPED
        ended = [e for e in live.events if isinstance(e, RunEnded) and e.executor_id == spec.executor_id]
        assert [event.run_id for event in ended[:3]] == run_ids
        kinds = [kind for kind in self._kinds(live, spec.executor_id) if kind is not RunReturned]
        assert kinds == [ExecutorStarted, *[RunEnded] * 4, ExecutorEnded]

    def test_a_fresh_executor_runs_once_and_ends(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        spec = live.spec(node, *devices, fresh=True)
        live.cluster.start_executor(spec)
        assert live.run(spec, "simple.noop")[:2] == (0, "None")
        assert live.ended(spec).cause is EndCause.STOPPED
        assert self._kinds(live, spec.executor_id) == [RunStarted, RunEnded, ExecutorEnded]

    def test_a_forced_stop_ends_it_once(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        spec = live.spec(node, *devices)
        live.start(spec)
        live.cluster.stop_executor(spec.executor_id, force=True)
        live.cluster.stop_executor(spec.executor_id, force=True)
        assert live.ended(spec).cause is EndCause.STOPPED
        live.reading(node)
        assert live.ends(spec) == 1

    def test_commands_for_an_executor_that_is_gone_are_ignored(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        spec = live.spec(node, *devices)
        live.send(spec, "simple.noop")
        live.cluster.stop_executor(spec.executor_id, force=True)
        live.cluster.signal_executor(spec.executor_id, 10)
        live.cluster.read_node("no such node")
        live.cluster.forgive("no such node", "GPU-unknown", 1.0)
        live.start(live.spec(node, *devices))
        assert self._kinds(live, spec.executor_id) == []

    def test_a_node_is_read_on_demand(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        after = len(live.events)
        live.cluster.read_node(node)
        reading = live.wait(NodeRead, lambda e: e.reading.node_id == node, after).reading
        assert set(devices) <= {device.uuid for device in reading.devices}

    def test_devices_that_are_given_back_are_there_for_an_ask_and_can_be_taken_back(
        self, live: LiveCluster, place: Place
    ) -> None:
        node, devices = place
        after = len(live.events)
        asks = [NodeAsk("a1", {"GPU": 1.0})]
        live.cluster.scale(asks, {node})
        assert live.wait(NodeGranted, after=after).node_id == node
        live.cluster.scale(asks, {node})
        taken_back = len(live.events)
        live.cluster.scale(asks, ())

        def is_leased(event: NodeRead) -> bool:
            reading = event.reading
            return reading.node_id == node and set(devices) <= {device.uuid for device in reading.devices}

        live.cluster.read_node(node)
        live.wait(NodeRead, is_leased, taken_back)
        assert [event.ask_id for event in live.events if isinstance(event, NodeGranted)] == ["a1"]
        live.cluster.scale((), ())

    @staticmethod
    def _kinds(live: LiveCluster, executor_id: str) -> list[type]:
        return [type(e) for e in live.events if getattr(e, "executor_id", None) == executor_id]
