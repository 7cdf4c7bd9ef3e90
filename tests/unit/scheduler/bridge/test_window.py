"""What goes back from the window and what is asked of the transport, with a channel that only counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.shares import PATIENCE_S
from celeray.scheduler.bridge.window import Window, least_urgent
from celeray.scheduler.states import RunState
from celeray.scheduler.transport.claiming import ANY, Choice, Limit
from celeray.scheduler.transport.demand import Demand

from .harness import GIB, Harness, port


class Setting:
    """A window of `most` messages on a harness whose one device is taken by a run without end."""

    def __init__(self, most: int) -> None:
        self.harness = Harness({"n1": [("GPU-a", "A100", 24 * GIB)]})
        self.harness.begin(self.harness.submit(gib=None))
        self.woken: list[float] = []
        self.window = Window(self.harness.dispatcher, self.harness.clock, self.woken.append)
        self.qos = SimpleNamespace(prefetch_count=most, _delivered=Delivered(self.harness), _dirty=())
        self.rung: list[bool] = []
        turns = SimpleNamespace(ring=lambda: self.rung.append(True), loop_thread=1)
        channel: Any = SimpleNamespace(qos=self.qos, turns=turns)
        self.demand = Demand(channel)
        self.window.attach(self.demand)

    def take(
        self, count: int, *, level: int = 5, name: str = "film.generate", gib: int | None = None
    ) -> list[Run]:
        """Messages come."""
        runs = []
        for _ in range(count):
            run = self.harness.submit(name, gib, priority=10 - level)
            # Before it is counted by its level.
            self.harness.dispatcher.waiting.remove(run)
            run.level, run.message_class = level, f"class of {name}"
            self.harness.dispatcher.waiting.add(run)
            runs.append(run)
        return runs

    def settle(self) -> None:
        """One wake-up, and another one after the window's patience."""
        for _ in range(2):
            self.harness.step()
            self.window.return_paused()
            self.window.balance()
            self.harness.clock.advance(PATIENCE_S)

    def back(self, runs: list[Run]) -> list[int]:
        """Places in `runs` of those that went back."""
        return [place for place, run in enumerate(runs) if "give_back" in port(run).words]


class Delivered:
    """As many messages as the dispatcher holds."""

    def __init__(self, harness: Harness) -> None:
        self.dispatcher = harness.dispatcher

    def __len__(self) -> int:
        return len(self.dispatcher.waiting) + len(self.dispatcher.running)


def test_while_there_is_room_nothing_is_asked() -> None:
    setting = Setting(most=10)
    runs = setting.take(5)
    setting.settle()
    assert setting.demand.choice == ANY
    assert not setting.back(runs)


def test_a_full_window_asks_for_what_is_more_urgent_than_its_last() -> None:
    setting = Setting(most=4)
    setting.take(1, level=5)
    setting.take(2, level=7)
    setting.harness.step()
    setting.window.balance()
    assert setting.demand.choice == Choice(over=2, urgent_levels=7)


def test_nothing_is_more_urgent_than_the_first_level() -> None:
    setting = Setting(most=3)
    setting.take(2, level=0)
    setting.harness.step()
    setting.window.balance()
    assert setting.demand.choice == ANY


def test_the_youngest_of_the_last_level_go_back_for_what_came_beyond() -> None:
    setting = Setting(most=5)
    runs = [*setting.take(2, level=5), *setting.take(2, level=7), *setting.take(2, level=2)]
    setting.harness.step()
    setting.window.balance()
    assert setting.back(runs) == [2, 3]
    assert setting.demand.free == 0


def test_a_shape_that_cannot_begin_leaves_room_for_others() -> None:
    setting = Setting(most=9)
    runs = setting.take(8)
    setting.settle()
    assert setting.back(runs) == [4, 5, 6, 7]
    assert setting.demand.choice == Choice(limits={"class of film.generate": Limit(0, 5)})
    assert setting.woken == [PATIENCE_S]


def test_within_a_limited_shape_the_more_urgent_takes_the_place() -> None:
    setting = Setting(most=9)
    runs = setting.take(8)
    setting.settle()
    urgent = setting.take(1, level=1)
    setting.harness.step()
    setting.window.balance()
    assert setting.back(runs) == [3, 4, 5, 6, 7]
    assert not setting.back(urgent)


def test_room_again_rings() -> None:
    setting = Setting(most=9)
    runs = setting.take(8)
    setting.settle()
    assert not setting.rung
    setting.harness.dispatcher.runs.discard(runs[0])
    setting.window.balance()
    assert setting.demand.choice.limits == {"class of film.generate": Limit(1, 5)}
    assert setting.rung


def test_paused_queues_go_back_and_others_stay() -> None:
    setting = Setting(most=9)
    runs = setting.take(3)
    runs[1].queue = "other"
    setting.demand.note_paused(frozenset({"gpu.generation"}))
    assert setting.woken == [0]
    setting.window.return_paused()
    assert setting.back(runs) == [0, 2]


def test_what_the_broker_does_not_take_waits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(most=3)
    runs = setting.take(4)
    monkeypatch.setattr(
        type(port(runs[0])), "give_back_with", lambda *_: (_ for _ in ()).throw(OSError("away"))
    )
    with pytest.raises(OSError, match="away"):
        setting.window.balance()
    assert len(setting.harness.dispatcher.waiting) == 4
    assert setting.demand.free == -2


def test_without_the_leased_transport_it_does_nothing() -> None:
    setting = Setting(most=2)
    runs = setting.take(5)
    setting.window.attach(None)
    setting.settle()
    assert not setting.back(runs)


def test_a_window_without_bound_is_let_be() -> None:
    setting = Setting(most=0)
    runs = setting.take(50)
    setting.settle()
    assert not setting.back(runs)
    assert setting.demand.choice == ANY


def test_a_shape_that_is_gone_and_comes_again_has_not_stood_still() -> None:
    setting = Setting(most=9)
    runs = setting.take(8)
    setting.harness.step()
    setting.window.balance()
    for run in runs:
        setting.harness.dispatcher.runs.discard(run)
    again = setting.take(8)
    setting.harness.clock.advance(PATIENCE_S)
    setting.window.balance()
    assert not setting.back(again)


def test_least_urgent_is_by_level_and_then_by_age() -> None:
    setting = Setting(most=9)
    first, second = setting.take(2, level=5)
    [later] = setting.take(1, level=3)
    assert least_urgent([first, second, later], 2) == [second, first]


def test_a_tenant_that_fills_the_window_leaves_room_for_another() -> None:
    setting = Setting(most=20)
    runs = []
    for _ in range(20):
        run = setting.harness.submit(gib=24, tenant="a")
        run.level, run.message_class = 0, "class of a"
        runs.append(run)
    setting.settle()
    setting.settle()
    assert setting.back(runs) == list(range(9, 20)), "half of it stays: there may be one other"
    assert setting.demand.choice.limits == {"class of a": Limit(0, 0)}
    other = setting.harness.submit(gib=24, tenant="b")
    setting.settle()
    assert other.state is RunState.WAITING
    assert set(setting.window.shares.quotas) == {runs[0].shape}
