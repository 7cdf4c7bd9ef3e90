"""Which shapes are limited, and when they are no more."""

from __future__ import annotations

from celeray.scheduler.bridge.shares import PATIENCE_S, Shares
from celeray.scheduler.bridge.waiting import Shape
from celeray.scheduler.model import ResourceRequest


def shape(name: str) -> Shape:
    return name, ResourceRequest(gpus=1), None


class Counts:
    """Waiting runs by name, and how many have begun."""

    def __init__(self, **counts: int) -> None:
        self.now = counts
        self.gone: dict[str, int] = {}

    def counts(self) -> dict[Shape, int]:
        return {shape(name): count for name, count in self.now.items() if count}

    def departed(self, of: Shape) -> int:
        return self.gone.get(of[0], 0)


def watched(waiting: Counts, room: int = 30) -> Shares:
    """A window that has been full for as long as it takes to judge."""
    shares = Shares()
    assert shares.update(0.0, waiting, room=room, full=True) == PATIENCE_S
    shares.update(PATIENCE_S, waiting, room=room, full=True)
    return shares


def test_what_fills_the_window_and_does_not_begin_is_limited_to_its_share() -> None:
    assert watched(Counts(big=30)).quotas == {shape("big"): 15}
    assert watched(Counts(big=20, small=10)).quotas == {shape("big"): 10}
    assert watched(Counts(big=10, small=10, third=10), room=40).quotas == {}


def test_there_is_a_place_for_each_shape_however_many_there_are() -> None:
    many = {f"s{number}": 2 for number in range(15)}
    quotas = watched(Counts(**many)).quotas
    assert set(quotas.values()) == {1}
    assert sum(quotas.values()) < 30


def test_nothing_is_judged_before_its_time_or_while_there_is_room() -> None:
    waiting = Counts(big=30)
    shares = Shares()
    shares.update(0.0, waiting, room=30, full=True)
    shares.update(PATIENCE_S / 2, waiting, room=30, full=True)
    assert not shares.quotas
    shares.update(PATIENCE_S, waiting, room=30, full=False)
    assert not shares.quotas
    # The watch begins anew.
    assert shares.update(2 * PATIENCE_S, waiting, room=30, full=True) == PATIENCE_S
    assert not shares.quotas


def test_what_flows_is_not_limited() -> None:
    waiting = Counts(short=30)
    shares = Shares()
    shares.update(0.0, waiting, room=30, full=True)
    waiting.gone["short"] = 15
    shares.update(PATIENCE_S, waiting, room=30, full=True)
    assert not shares.quotas


def test_a_shape_that_came_meanwhile_is_not_judged_yet() -> None:
    waiting = Counts(big=30)
    shares = Shares()
    shares.update(0.0, waiting, room=60, full=True)
    waiting.now["late"] = 30
    shares.update(PATIENCE_S, waiting, room=60, full=True)
    assert shares.quotas == {shape("big"): 20}


def test_the_limit_ends_when_the_queues_have_no_more_of_it_or_it_flows() -> None:
    waiting = Counts(big=30)
    shares = watched(waiting)
    waiting.now["big"] = 8
    shares.update(1.0, waiting, room=30, full=False)
    assert shares.quotas
    waiting.now["big"] = 7
    shares.update(1.1, waiting, room=30, full=False)
    assert not shares.quotas

    waiting = Counts(big=30)
    shares = watched(waiting)
    waiting.gone["big"] = 100
    shares.update(2 * PATIENCE_S, waiting, room=30, full=True)
    assert not shares.quotas


def test_what_goes_back_is_no_flow() -> None:
    waiting = Counts(big=30)
    shares = watched(waiting)
    waiting.gone["big"] = 15
    shares.watch(PATIENCE_S, waiting)
    waiting.now["big"] = 15
    shares.update(2 * PATIENCE_S, waiting, room=30, full=True)
    assert shares.quotas == {shape("big"): 15}
