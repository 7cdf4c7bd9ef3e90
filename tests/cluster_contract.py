"""What every `Cluster` must do. Subclass it and give the fixtures `live` and `place`."""

from __future__ import annotations

from celeray.scheduler.cluster import EndCause, ExecutorEnded, ExecutorStarted, NodeRead, RunEnded, RunStarted
from tests.integration.actors.live import LiveCluster

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
        live.start(live.spec(node, *devices))
        assert self._kinds(live, spec.executor_id) == []

    def test_a_node_is_read_on_demand(self, live: LiveCluster, place: Place) -> None:
        node, devices = place
        after = len(live.events)
        live.cluster.read_node(node)
        reading = live.wait(NodeRead, lambda e: e.reading.node_id == node, after).reading
        assert set(devices) <= {device.uuid for device in reading.devices}

    @staticmethod
    def _kinds(live: LiveCluster, executor_id: str) -> list[type]:
        return [type(e) for e in live.events if getattr(e, "executor_id", None) == executor_id]
