"""Tenants in the bridge: what each has used, and whose runs begin."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celeray.scheduler.bridge import picture
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.tenant_books import SLICES_A_HALF_LIFE, TENANTS_MOST, TenantBooks
from celeray.scheduler.bridge.tenant_exchange import TenantExchange
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.counters import TenantUse
from celeray.scheduler.model import Isolation, ResourceRequest
from celeray.scheduler.states import RunState

from .harness import GIB, Harness

HOUR_MS = 3_600_000


def one_after_the_other(bridge: Harness, runs: list[Run], *, seconds: float = 10.0) -> list[Run]:
    """Let them run on the one device; returns them in the order of their begins."""
    order: list[Run] = []
    for _ in range(3 * len(runs)):
        bridge.step()
        bridge.cluster.start_all()
        bridge.step()
        for run in runs:
            if run.state is RunState.RUNNING and run not in order:
                order.append(run)
                bridge.advance(seconds)
                assert run.executor_id is not None
                bridge.cluster.finish(run.executor_id, seconds=seconds)
        bridge.advance(0.1)
    assert len(order) == len(runs)
    return order


def test_a_tenant_that_comes_later_does_not_wait_for_all_of_the_first() -> None:
    bridge = Harness()
    runs = [bridge.submit(gib=24, tenant="a") for _ in range(20)]
    runs += [bridge.submit(gib=24, tenant="b") for _ in range(4)]
    order = [run.task.tenant for run in one_after_the_other(bridge, runs)]
    assert order.index("b") <= 1
    assert [place for place, tenant in enumerate(order) if tenant == "b"][-1] <= 8


def test_without_tenants_the_order_is_that_of_arrival() -> None:
    bridge = Harness()
    runs = [bridge.submit(gib=24) for _ in range(6)]
    assert one_after_the_other(bridge, runs) == runs
    assert not bridge.dispatcher.books.named
    assert bridge.dispatcher.last_cycle is not None
    assert bridge.dispatcher.last_cycle.snapshot.tenants == {}


def test_three_to_one_by_weight() -> None:
    bridge = Harness(tenant_weights={"a": 3})
    for _ in range(40):
        bridge.submit(gib=24, tenant="a")
        bridge.submit(gib=24, tenant="b")
    began: list[str | None] = []
    for _ in range(40):
        bridge.step()
        bridge.cluster.start_all()
        bridge.step()
        (run,) = [run for run in bridge.dispatcher.running if run.state is RunState.RUNNING]
        began.append(run.task.tenant)
        bridge.advance(5)
        bridge.cluster.finish(run.executor_id or "", seconds=5)
    assert 28 <= began.count("a") <= 32


def test_a_batch_is_of_one_tenant() -> None:
    bridge = Harness()
    executor = bridge.learn(0.001)
    runs = [bridge.submit(batchable=True, tenant=("a", "b")[n % 2]) for n in range(20)]
    bridge.know(runs[0], 0.001)
    bridge.step()
    batch = bridge.batch(executor)
    assert len(batch) > 1
    assert len({run.task.tenant for run in runs if run.run_id in batch}) == 1
    assert bridge.dispatcher.books.running() == {runs[batch[0] - runs[0].run_id].task.tenant: len(batch)}


def test_both_tenants_of_a_shape_are_seen_in_a_cycle() -> None:
    bridge = Harness()
    for _ in range(50):
        bridge.submit(tenant="a")
    bridge.submit(tenant="b")
    bridge.step()
    assert bridge.dispatcher.last_cycle is not None
    assert {task.tenant for task in bridge.dispatcher.last_cycle.waiting} == {"a", "b"}


def test_what_an_executor_reserves_counts_until_its_run_ends() -> None:
    bridge = Harness()
    run = bridge.submit(
        gib=8, request=ResourceRequest(gpus=1, memory_mib=8 * GIB, expected_ms=4_000), tenant="a"
    )
    bridge.begin(run)
    books = bridge.dispatcher.books
    assert books.usage(["a"]) == {"a": 8 * GIB * 4_000}, "all of it is still expected"
    bridge.advance(3)
    assert books.usage(["a"]) == {"a": 8 * GIB * 4_000}, "three seconds are used, and one is expected"
    bridge.advance(3)
    assert books.usage(["a"]) == {"a": 8 * GIB * 6_000}, "it took longer"
    assert run.executor_id is not None
    bridge.cluster.finish(run.executor_id, seconds=6)
    bridge.step()
    bridge.advance(5)
    assert books.usage(["a"]) == {"a": 8 * GIB * 6_000}, "an idle executor is nobody's"
    assert books.totals == {"a": 8 * GIB * 6_000}
    assert books.running() == {}


@pytest.mark.parametrize("isolation", list(Isolation))
def test_every_end_closes_the_books(isolation: Isolation) -> None:
    bridge = Harness()
    request = ResourceRequest(gpus=1, memory_mib=8 * GIB, isolation=isolation)
    run = bridge.submit(request=request, tenant="a")
    bridge.step()
    bridge.cluster.start_all()
    bridge.step()
    assert bridge.dispatcher.books.running() == {"a": 1}
    bridge.dispatcher.lease_lost(run)
    assert bridge.dispatcher.books.running() == {}


def test_a_run_that_waits_again_is_not_under_way() -> None:
    bridge = Harness()
    run = bridge.submit(tenant="a")
    bridge.begin(run)
    bridge.advance(1)
    bridge.dispatcher.runs.wait_again(run)
    assert bridge.dispatcher.books.running() == {}
    assert bridge.dispatcher.books.usage(["a"]) == {"a": 8 * GIB * 1_000}


def test_runs_of_no_tenant_count_from_when_one_is_named() -> None:
    bridge = Harness()
    before = bridge.submit()
    bridge.begin(before)
    bridge.advance(5)
    assert bridge.dispatcher.books.known() == {}
    bridge.submit(tenant="a")
    after = bridge.submit("film.other")
    bridge.begin(after)
    bridge.advance(2)
    assert bridge.dispatcher.books.known()[""] == 8 * GIB * 2_000


def test_the_status_shows_who_waits_and_runs() -> None:
    bridge = Harness()
    assert picture.tenants(bridge.dispatcher) == ()
    bridge.begin(bridge.submit(gib=24, tenant="a"))
    bridge.submit(gib=24)
    bridge.submit(gib=24, tenant="b")
    bridge.advance(2)
    shown = {one.tenant: one for one in picture.tenants(bridge.dispatcher)}
    assert (shown["a"].running, shown["a"].used_mib_s) == (1, 24 * GIB * 2)
    assert (shown["b"].waiting, shown["b"].used_mib_s) == (1, 0)
    assert shown[""].waiting == 1
    assert picture.tenant_totals(bridge.dispatcher) == (TenantUse(tenant="a", mib_s=24 * GIB * 2),)


# The books alone


def books_at(clock: ManualClock, half_life_s: float = 800) -> TenantBooks:
    found = TenantBooks(clock, half_life_s=half_life_s, unknown_run_ms=HOUR_MS)
    found.named = True
    return found


def use(books: TenantBooks, clock: ManualClock, tenant: str | None, seconds: float, mib: int = 1_000) -> None:
    from types import SimpleNamespace

    run: Any = SimpleNamespace(
        task=SimpleNamespace(tenant=tenant, expected_ms=None), executor_id=f"e-{tenant}"
    )
    executor: Any = SimpleNamespace(executor_id=run.executor_id, memory_mib=mib, device_uuids=("d",))
    books.begin(run, executor)
    clock.advance(seconds)
    books.end(run)


def test_usage_halves_with_each_half_life() -> None:
    clock = ManualClock(800_000.0)
    books = books_at(clock)
    use(books, clock, "a", 10)
    first = books.usage(["a"])["a"]
    assert first == 10_000_000
    for times in (2, 4, 8):
        clock.advance(800)
        assert books.usage(["a"])["a"] == first // times
    clock.advance(10 * 800)
    assert books.usage(["a"]) == {"a": 0}
    assert books.totals == {"a": 10_000_000}, "what was used in all is not forgotten"


def test_a_step_is_a_slice() -> None:
    clock = ManualClock(800_000.0)
    books = books_at(clock)
    use(books, clock, "a", 10)
    clock.advance(800 / SLICES_A_HALF_LIFE)
    assert books.usage(["a"])["a"] == pytest.approx(10_000_000 * 2 ** (-1 / 8), rel=1e-4)


def test_a_run_without_a_device_counts_a_little() -> None:
    clock = ManualClock(800_000.0)
    books = books_at(clock)
    use(books, clock, "a", 10, mib=0)
    assert books.usage(["a"]) == {"a": 10_000}


def test_no_more_tenants_are_known_than_the_bound() -> None:
    clock = ManualClock(800_000.0)
    books = books_at(clock)
    for n in range(TENANTS_MOST + 10):
        use(books, clock, f"t{n}", 0.001)
    assert len(books.known()) <= TENANTS_MOST + 1
    assert len(books.totals) <= TENANTS_MOST + 1
    assert books.totals[""] == 10_000, "what is more counts with the tasks of no tenant"
    assert books.usage(["t1", "new"]) == {"t1": 1_000, "new": books.usage([""])[""]}


class Shared:
    """Implements `TenantStore`."""

    def __init__(self) -> None:
        self.slices: dict[int, dict[str, int]] = {}
        self.away = False
        self.reads: list[int] = []

    def add(self, used: Any) -> None:
        self._reach()
        for number, of_slice in used.items():
            into = self.slices.setdefault(number, {})
            for tenant, mib_ms in of_slice.items():
                into[tenant] = into.get(tenant, 0) + mib_ms

    def read(self, numbers: Any) -> dict[int, dict[str, int]]:
        self._reach()
        wanted = list(numbers)
        self.reads.append(len(wanted))
        return {number: dict(self.slices.get(number, {})) for number in wanted}

    def _reach(self) -> None:
        if self.away:
            raise redis.ConnectionError("away")

    def close(self) -> None:
        pass


def test_bridges_share_their_books() -> None:
    clock, shared = ManualClock(800_000.0), Shared()
    mine, theirs = books_at(clock), books_at(clock)
    exchanges = [TenantExchange(lambda: shared, books) for books in (mine, theirs)]  # type: ignore[arg-type, return-value]
    use(mine, clock, "a", 1)
    use(theirs, clock, "a", 2)
    for _ in range(2):
        for exchange in exchanges:
            exchange.exchange_once(clock.time())
    assert mine.usage(["a"]) == theirs.usage(["a"]) == {"a": 3_000_000}
    assert mine.totals == {"a": 1_000_000}, "what is counted for the metric is each bridge's own"
    use(mine, clock, "a", 1)
    assert mine.usage(["a"]) == {"a": 4_000_000}
    assert shared.reads[-1] < shared.reads[0], "older slices are read once a slice"


def test_while_redis_is_away_a_bridge_goes_on_with_its_own() -> None:
    clock, shared = ManualClock(800_000.0), Shared()
    books = books_at(clock)
    exchange = TenantExchange(lambda: shared, books)  # type: ignore[arg-type, return-value]
    shared.away = True
    for seconds in (1, 2):
        use(books, clock, "a", seconds)
        exchange.exchange_once(clock.time())
    assert books.usage(["a"]) == {"a": 3_000_000}
    shared.away = False
    exchange.exchange_once(clock.time())
    exchange.exchange_once(clock.time())
    assert sum(of_slice["a"] for of_slice in shared.slices.values()) == 3_000_000, "told once"
    assert books.usage(["a"]) == {"a": 3_000_000}


def test_nothing_is_exchanged_before_a_tenant_is_named() -> None:
    clock, shared = ManualClock(800_000.0), Shared()
    books = TenantBooks(clock)
    exchange = TenantExchange(lambda: shared, books)  # type: ignore[arg-type, return-value]
    exchange.exchange_once(clock.time())
    assert shared.reads == []
