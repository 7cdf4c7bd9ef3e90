"""How long a bridge's executors may go on, and who ends them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.actors.processes import ProcessId
from celeray.actors.supervision import AgentClock, Heartbeat, Renewal, Supervisor, margin_s

ONE, TWO = ProcessId(101, 1.0), ProcessId(102, 1.0)


@dataclass
class Agent:
    """A node agent as the driver has it: answers with its own clock, or not at all."""

    clock: float = 500.0
    silent: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def keep_alive(self) -> Agent:
        return self

    def remote(self, *args: Any) -> Agent:
        self.calls.append(args)
        return self

    def future(self) -> Future[float]:
        answer: Future[float] = Future()
        if self.silent:
            answer.set_exception(RuntimeError("restarts"))
        else:
            answer.set_result(self.clock)
        return answer


@given(
    drift=st.floats(-1e6, 1e6),
    transits=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=1, max_size=20),
    sent_at=st.floats(0, 200),
    on_the_way=st.floats(0, 100),
    lease_s=st.floats(1, 60),
)
def test_the_deadline_comes_before_the_message_can_be_restored(
    drift: float, transits: list[tuple[float, float]], sent_at: float, on_the_way: float, lease_s: float
) -> None:
    """Real time is the driver's clock here; the agent's is any other. Answers take as long as they like."""
    clock, now = AgentClock(), 0.0
    for before_reading, after_reading in transits:
        read_at = now + before_reading
        now = read_at + after_reading
        clock.add(now, read_at + drift)
    deadline = clock.deadline(Renewal(sent_at, lease_s))
    restored_at = sent_at + on_the_way + lease_s
    if deadline is not None:
        assert deadline - drift <= restored_at - margin_s(lease_s) + 1e-6


def test_an_answer_that_came_after_the_renewal_was_sent_does_not_count() -> None:
    clock = AgentClock()
    clock.add(11.0, 500.0)
    assert clock.deadline(Renewal(10.0, 10.0)) is None
    assert clock.deadline(Renewal(11.0, 10.0)) == pytest.approx(509.0)
    clock.add(12.0, 501.0)
    clock.add(14.0, 503.0)
    assert clock.deadline(Renewal(13.0, 10.0)) == pytest.approx(510.0)
    assert len(clock.answers) == 2


def test_before_the_first_renewal_agents_are_asked_for_their_clock() -> None:
    agent, heartbeat = Agent(), Heartbeat("b")
    heartbeat.tick({"n": agent}, {})
    heartbeat.tick({"n": agent}, {"n": frozenset({ONE})})
    assert agent.calls == [("b", (), None), ("b", (ONE,), None)]
    # So the very first renewal gives a deadline at once.
    heartbeat.renewed(Renewal(1e12, 60.0))
    heartbeat.tick({"n": agent}, {"n": frozenset({ONE})})
    assert agent.calls[2:] == [("b", (ONE,), pytest.approx(558.0))]


def test_an_agent_is_told_of_every_executor_at_once() -> None:
    agent, heartbeat = Agent(), Heartbeat("b")
    heartbeat.renewed(Renewal(1e12, 60.0))
    heartbeat.tick({"n": agent}, {})
    heartbeat.tick({"n": agent}, {})
    assert agent.calls == [("b", (), None)]
    heartbeat.tick({"n": agent}, {"n": frozenset({ONE})})
    assert agent.calls[1:] == [("b", (ONE,), pytest.approx(558.0))]
    heartbeat.renewed(Renewal(1e12, 30.0))
    heartbeat.tick({"n": agent}, {"n": frozenset({ONE})})
    assert agent.calls[2:] == [("b", (ONE,), pytest.approx(528.0))]


def test_an_agent_that_does_not_answer_gives_no_deadline() -> None:
    agent, heartbeat = Agent(silent=True), Heartbeat("b")
    heartbeat.renewed(Renewal(1e12, 60.0))
    heartbeat.tick({"n": agent}, {})
    heartbeat.tick({"n": agent}, {"n": frozenset({ONE})})
    assert agent.calls[-1] == ("b", (ONE,), None)


class Node:
    """A supervisor whose clock and processes are the test's. Its own thread never finds anything to do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.killed: list[ProcessId] = []
        self.supervisor = Supervisor(self._kill, lambda: self.now)
        # The test calls what the thread would.
        self.supervisor._thread = object()  # type: ignore[assignment]

    def _kill(self, process: ProcessId) -> bool:
        self.killed.append(process)
        return True


def test_executors_are_ended_when_their_time_is_over() -> None:
    node = Node()
    assert node.supervisor.keep_alive("b", (ONE,), 10.0) == 0.0
    node.supervisor.keep_alive("other", (TWO,), 20.0)
    node.now = 9.9
    assert node.supervisor.end_overdue() == 10.0
    assert node.killed == []
    node.now = 10.0
    assert node.supervisor.end_overdue() == 20.0
    assert node.killed == [ONE]
    assert node.supervisor.was_ended(ONE)
    assert not node.supervisor.was_ended(TWO)


def test_a_bridge_that_renews_keeps_its_executors() -> None:
    node = Node()
    node.supervisor.keep_alive("b", (ONE,), 10.0)
    node.now = 9.0
    node.supervisor.keep_alive("b", (ONE, TWO), 19.0)
    node.now = 18.9
    assert node.supervisor.end_overdue() == 19.0
    # A call that can't tell the deadline yet brings new executors under the old one.
    node.supervisor.keep_alive("b", (TWO,), None)
    node.now = 19.0
    assert node.supervisor.end_overdue() is None
    assert node.killed == [TWO]


def test_nobody_is_supervised_before_the_first_deadline() -> None:
    node = Node()
    node.supervisor.keep_alive("b", (ONE,), None)
    node.now = 1e9
    assert node.supervisor.end_overdue() is None
    assert node.killed == []


def test_the_thread_ends_what_is_overdue() -> None:
    ended: list[ProcessId] = []
    done: Future[None] = Future()

    def kill(process: ProcessId) -> bool:
        ended.append(process)
        done.set_result(None)
        return True

    supervisor = Supervisor(kill)
    supervisor.keep_alive("b", (ONE,), supervisor.keep_alive("b", (), None) + 0.01)
    done.result(10)
    assert ended == [ONE]
