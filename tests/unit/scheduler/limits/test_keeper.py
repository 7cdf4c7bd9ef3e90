"""When the keeper's thread talks to Redis, by a clock of the test. No thread runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import redis

from celeray.scheduler.limits.keeper import Hold, LimitKeeper
from celeray.scheduler.limits.store import Room, Sweep


class Store:
    """Notes the calls, and answers as it is told."""

    def __init__(self) -> None:
        self.released: list[Room] = []
        self.sweeps = 0
        self.due_s: float | None = None
        self.down = False

    def release(self, rooms: Any) -> float | None:
        if self.down:
            raise redis.ConnectionError("down")
        self.released += rooms
        return self.due_s

    def sweep(self) -> Sweep:
        if self.down:
            raise redis.ConnectionError("down")
        self.sweeps += 1
        return Sweep(due_s=self.due_s)


class Bench:
    def __init__(self) -> None:
        self.now, self.store = 100.0, Store()
        self.keeper = LimitKeeper(clock=lambda: self.now)
        self.keeper._store = self.store  # type: ignore[assignment]
        self.held: set[str] = set()
        self.book: Any = SimpleNamespace(get=lambda tag: tag if tag in self.held else None)

    def hold(self, tag: str) -> Room:
        self.held.add(tag)
        self.keeper.hold(Hold(tag, self.book, (Room("g", tag, "me:1"),)))
        return Room("g", tag, "me:1")


def test_room_is_given_back_once() -> None:
    bench = Bench()
    room = bench.hold("t")
    bench.keeper.end("t")
    bench.keeper.end("t")
    bench.keeper.run_once()
    bench.keeper.run_once()
    assert bench.store.released == [room]


def test_a_lease_that_ended_silently_gives_room_back() -> None:
    bench = Bench()
    room, kept = bench.hold("t"), bench.hold("u")
    bench.held.discard("t")
    bench.keeper.run_once()
    assert bench.store.released == [room]
    assert kept not in bench.store.released


def test_what_redis_did_not_take_is_told_again_in_order() -> None:
    bench = Bench()
    rooms = [bench.hold("t"), bench.hold("u")]
    bench.keeper.end("t")
    bench.keeper.end("u")
    bench.store.down = True
    bench.keeper.run_once()
    bench.store.down = False
    bench.keeper.run_once()
    assert bench.store.released == rooms


def test_it_sleeps_until_the_next_gate_is_due_and_no_longer_than_the_poll() -> None:
    bench = Bench()
    bench.store.due_s = 0.25
    assert bench.keeper.run_once() == 0.25
    assert bench.keeper.run_once() == 0.25
    assert bench.store.sweeps == 1
    bench.now += 0.25
    bench.store.due_s = None
    assert bench.keeper.run_once() == 1.0
    assert bench.store.sweeps == 2


def test_a_gate_that_is_due_sooner_is_expected() -> None:
    bench = Bench()
    bench.keeper.run_once()
    bench.keeper.expect(0.1)
    bench.keeper.expect(0.5)
    bench.keeper.expect(None)
    assert 0.09 < bench.keeper.run_once() < 0.11
