"""A node that is given back: neither leased nor read nor kept busy by an agent; without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.actors import nodes
from celeray.actors.nodes import Nodes
from celeray.scheduler.cluster import NodeLost, NodeRead


class Lease:
    """Stands for a `NodeLease` whose devices are free."""

    def __init__(self, node_id: str, gpus: int) -> None:
        self.gpus, self.held, self.released = gpus, False, 0

    def step(self, now: float) -> None:
        self.held = True

    def release(self) -> None:
        self.held, self.released = False, self.released + 1

    def leased(self, devices: Any) -> tuple[()]:
        return ()


class Future:
    def add_done_callback(self, callback: Any) -> None:
        self.callback = callback


class Agent:
    """A handle whose readings never come back by themselves."""

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.read = self

    def remote(self, *_: Any) -> Agent:
        return self

    def future(self) -> Future:
        self.futures.append(Future())
        return self.futures[-1]


class Ray:
    """The cluster: node n1 with two GPUs, and the agents that were made and ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = True
        self.agents: list[Agent] = []
        self.killed: list[Agent] = []
        self.events: list[Any] = []
        self.clock = 100.0
        monkeypatch.setattr(nodes.ray, "nodes", self.list)
        monkeypatch.setattr(nodes.ray, "kill", self.kill)
        monkeypatch.setattr(nodes.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(nodes, "NodeLease", Lease)
        monkeypatch.setattr(nodes, "_agent_class", self)
        monkeypatch.setattr(nodes, "agent_options", lambda node_id: {})
        self.nodes = Nodes(self, None, reading_interval_s=0.5)  # type: ignore[arg-type]

    def list(self) -> list[dict[str, Any]]:
        resources = {"GPU": 2, "CPU": 4}
        address = {"NodeName": "n1", "NodeManagerAddress": "n1", "NodeManagerHostname": "n1"}
        return [{"NodeID": "n1", "Alive": self.alive, "Resources": resources, "Labels": {}} | address]

    def kill(self, agent: Agent) -> None:
        # Ray's thread takes the lock with a reading, and answers this one only after it.
        assert not self.nodes._lock.locked()
        self.killed.append(agent)

    def options(self, **_: Any) -> Ray:
        return self

    def remote(self, *_: Any, watch: bool) -> Agent:
        self.agents.append(Agent())
        return self.agents[-1]

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def tick(self, count: int = 4) -> None:
        for _ in range(count):
            self.clock += 0.25
            self.nodes.tick()

    @property
    def lease(self) -> Lease:
        return self.nodes._nodes["n1"].lease  # type: ignore[return-value]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    found = Ray(monkeypatch)
    found.tick()
    assert found.lease.held
    assert len(found.agents) == 1
    return found


def test_its_devices_and_its_agent_go_and_nothing_is_read(ray: Ray) -> None:
    ray.nodes.give_back(frozenset({"n1"}))
    ray.events.clear()
    ray.tick()

    assert (ray.lease.held, ray.lease.released) == (False, 1)
    assert ray.killed == ray.agents
    assert ray.nodes.agents() == {}
    assert ray.events == []


def test_a_reading_that_was_under_way_does_not_count(ray: Ray) -> None:
    ray.nodes.give_back(frozenset({"n1"}))
    ray.tick()
    ray.events.clear()

    ray.agents[0].futures[-1].callback(Ended())

    assert ray.events == []
    assert not ray.nodes._nodes["n1"].failing


def test_it_is_leased_and_read_again_when_it_is_left_out(ray: Ray) -> None:
    ray.nodes.give_back(frozenset({"n1"}))
    ray.tick()
    ray.events.clear()
    ray.nodes.give_back(frozenset())
    ray.tick()

    assert ray.lease.held
    assert len(ray.agents) == 2
    assert ray.agents[1].futures
    [*_, reading] = [event.reading for event in ray.events if isinstance(event, NodeRead)]
    assert (reading.node_id, reading.unleased) == ("n1", 2)


def test_a_new_node_is_left_to_what_waits_for_one_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(monkeypatch)
    waiting = True
    ray.nodes = Nodes(ray, None, reading_interval_s=0.5, asking=lambda: waiting)  # type: ignore[arg-type]
    ray.tick(4)
    assert not ray.lease.held

    waiting = False
    ray.tick(1)
    assert ray.lease.held


def test_but_not_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(monkeypatch)
    ray.nodes = Nodes(ray, None, reading_interval_s=0.5, asking=lambda: True)  # type: ignore[arg-type]

    ray.tick(10)

    assert ray.lease.held


def test_its_going_is_told(ray: Ray) -> None:
    ray.nodes.give_back(frozenset({"n1"}))
    ray.tick()
    ray.alive = False
    ray.tick()

    assert ray.events[-1] == NodeLost("n1")


class Ended:
    """What a reading becomes when its agent is ended."""

    def exception(self) -> Exception:
        return RuntimeError("the actor died")
