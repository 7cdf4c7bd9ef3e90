"""Who comes first: priority, aging up to 9, age."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.model import WaitingTask
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.policy import Order

from .clusters import gpu, task

MINUTE = 60_000


def at(sequence: int, priority: int, arrived_ms: int) -> WaitingTask:
    return replace(task(sequence, gpu(8), priority), arrived_ms=arrived_ms)


AGING = Order(aging_ms=MINUTE)


def first(*tasks: WaitingTask, order: Order = AGING) -> int:
    return min(tasks, key=lambda t: order_key(t, order)).sequence


def test_priority_then_age() -> None:
    assert first(at(1, 5, 0), at(2, 6, 0)) == 2
    assert first(at(2, 5, 0), at(1, 5, 0)) == 1
    assert first(at(2, 5, 0), at(1, 5, 1)) == 2, "who waits longer"


def test_a_task_rises_by_one_priority_in_the_aging_time() -> None:
    assert first(at(1, 5, 0), at(2, 7, 2 * MINUTE - 1)) == 2
    assert first(at(1, 5, 0), at(2, 7, 2 * MINUTE + 1)) == 1


def test_nothing_ages_past_nine() -> None:
    old = at(1, 1, 0)
    assert first(old, at(2, 10, 1_000 * MINUTE)) == 2, "10 stays before any backlog"
    assert first(old, at(2, 9, 8 * MINUTE + 1)) == 1
    assert first(old, at(2, 9, 8 * MINUTE - 1)) == 2


def test_without_aging_only_priority_and_arrival_count() -> None:
    never = Order(aging_ms=0)
    assert first(at(1, 1, 0), at(2, 2, 10**9), order=never) == 2
    assert first(at(1, 2, 10**9), at(2, 2, 0), order=never) == 1


def _effective(task: WaitingTask, now: int, aging: int) -> int:
    """Thousandths of a priority, as the definition says it."""
    if task.priority > 9:
        return 10_000
    return min(9_000, task.priority * 1000 + (now - task.arrived_ms) * 1000 // aging)


@given(
    st.tuples(st.integers(1, 10), st.integers(0, 10**6)),
    st.tuples(st.integers(1, 10), st.integers(0, 10**6)),
    st.integers(0, 10**6),
)
def test_the_order_is_that_of_the_aged_priorities_at_any_time(
    one: tuple[int, int], other: tuple[int, int], later: int
) -> None:
    a, b = at(1, *one), at(2, *other)
    now = max(a.arrived_ms, b.arrived_ms) + later
    risen = _effective(a, now, MINUTE), _effective(b, now, MINUTE)
    if abs(risen[0] - risen[1]) > 1:
        assert first(a, b) == (1 if risen[0] > risen[1] else 2)
