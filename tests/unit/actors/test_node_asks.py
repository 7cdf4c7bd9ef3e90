"""A pending group for each node that is wanted, and what is left of it when the node is there; without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.actors import node_asks
from celeray.actors.node_asks import NodeAsks
from celeray.scheduler.cluster import NodeAsk, NodeGranted

ONE = NodeAsk("a1", {"GPU": 2.0, "a10_node": 1.0}, {"zone": "b"})
TWO = NodeAsk("a2", {"GPU": 2.0})


class Groups:
    """What Ray knows of placement groups: made, with a place, removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[list[dict[str, float]], Any]] = []
        self.places: dict[str, str] = {}
        self.alive: set[str] = set()
        monkeypatch.setattr(node_asks, "placement_group", self.make)
        monkeypatch.setattr(node_asks, "placement_group_table", self.table)
        monkeypatch.setattr(node_asks, "remove_placement_group", self.alive.remove)

    def make(self, bundles: list[dict[str, float]], *, bundle_label_selector: Any, name: str) -> str:
        self.made.append((bundles, bundle_label_selector))
        self.alive.add(name)
        return name

    def table(self, name: str) -> dict[str, Any]:
        if name not in self.places:
            return {"state": "PENDING", "bundles_to_node_id": {0: ""}}
        return {"state": "CREATED", "bundles_to_node_id": {0: self.places[name]}}


class Port:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, event: Any) -> None:
        self.events.append(event)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Groups:
    return Groups(monkeypatch)


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def asks(port: Port, groups: Groups) -> NodeAsks:
    return NodeAsks(port)  # type: ignore[arg-type]


def test_each_ask_is_one_group_of_all_that_a_node_has(asks: NodeAsks, groups: Groups) -> None:
    asks.want([ONE, TWO])
    asks.step()
    asks.step()

    assert sorted(groups.alive) == ["celeray-ask-a1", "celeray-ask-a2"]
    assert ([{"GPU": 2.0, "a10_node": 1.0}], [{"zone": "b"}]) in groups.made
    assert ([{"GPU": 2.0}], None) in groups.made
    assert len(groups.made) == 2


def test_one_that_has_its_place_is_removed_and_told_once_and_not_asked_again(
    asks: NodeAsks, groups: Groups, port: Port
) -> None:
    asks.want([ONE])
    asks.step()
    groups.places["celeray-ask-a1"] = "n1"
    for _ in range(3):
        asks.step()
        # The bridge does not know yet.
        asks.want([ONE])

    assert port.events == [NodeGranted("a1", "n1")]
    assert not groups.alive
    assert not asks.pending()
    assert len(groups.made) == 1


def test_one_that_is_withdrawn_is_removed(asks: NodeAsks, groups: Groups, port: Port) -> None:
    asks.want([ONE, TWO])
    asks.step()
    assert asks.pending()
    asks.want([TWO])
    asks.step()

    assert groups.alive == {"celeray-ask-a2"}
    assert port.events == []
