"""An executor's end is told exactly once, whatever goes wrong on the way. Nothing of Ray answers here."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import pytest
from ray._private import auto_init_hook

from celeray.actors import channel
from celeray.actors.endings import Endings
from celeray.actors.event_port import EventPort
from celeray.actors.processes import ProcessId
from celeray.scheduler.cluster import EndCause, ExecutorEnded

END = ExecutorEnded("e1", EndCause.DIED, "it died")


class BrokenNodes:
    """Nodes of which Ray can't be asked."""

    def __init__(self, error: Exception | None, *, alive: bool = True) -> None:
        self._error = error
        self._alive = alive

    def is_alive(self, node_id: str, *, ask: bool = False) -> bool:
        if self._error is not None:
            raise self._error
        return self._alive

    def agent(self, node_id: str) -> Any:
        raise RuntimeError("no agent")


def told(
    nodes: Any, *, process: ProcessId | None = None, actor: Any = None, then: Callable[[], None] = list
) -> list[ExecutorEnded]:
    """All events of one end."""
    ours, drivers = Pipe()
    endings = Endings(EventPort(drivers), nodes)
    endings.report(END, node_id="n1", process=process, then=then, actor=actor)
    endings._threads.shutdown(wait=True)
    drivers.close()
    events: list[ExecutorEnded] = []
    with ours:
        while ours.poll():
            try:
                events += channel.receive(ours)
            except EOFError:
                break
    return events


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), ConnectionError("x")])
@pytest.mark.parametrize("process", [None, ProcessId(1, 0.0)])
def test_an_error_while_it_is_watched(error: Exception, process: ProcessId | None) -> None:
    (end,) = told(BrokenNodes(error), process=process)

    assert (end.executor_id, end.cause) == ("e1", EndCause.DIED)
    assert end.detail == f"it died (Ray could not be asked about it: {type(error).__name__}: x)"


def test_an_error_while_it_is_forgotten() -> None:
    def fail() -> None:
        raise KeyError("e1")

    assert told(BrokenNodes(None), then=fail) == [END]


def test_an_actor_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray would otherwise start itself to kill it.
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", False)

    assert told(BrokenNodes(None), actor="no actor") == [END]


def test_a_node_that_is_gone_is_the_cause() -> None:
    (end,) = told(BrokenNodes(None, alive=False), process=ProcessId(1, 0.0))

    assert end == ExecutorEnded("e1", EndCause.NODE_LOST, "it died; node n1 is gone")
