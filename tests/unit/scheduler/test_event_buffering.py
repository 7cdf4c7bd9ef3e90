"""When a worker's task events go out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celeray.scheduler.event_buffering import DELAY_S, EVENTS_A_MESSAGE, BufferEvents


class Hub:
    """Keeps what is due later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any]] = []

    def call_later(self, delay: float, callback: Any) -> None:
        self.later.append((delay, callback))


def worker(*, hub: Any, flush: Any = lambda: None) -> Any:
    dispatcher = SimpleNamespace(buffer_limit=24, on_send_buffered=None, flush=flush)
    consumer = SimpleNamespace(
        hub=hub, event_dispatcher=dispatcher, connection_errors=(OSError,), channel_errors=()
    )
    consumer.connection = consumer
    return consumer


def test_one_flush_follows_many_events_and_the_next_event_makes_another() -> None:
    flushed: list[None] = []
    consumer = worker(hub=Hub(), flush=lambda: flushed.append(None))
    BufferEvents(consumer).start(consumer)
    buffered = consumer.event_dispatcher.on_send_buffered
    for _ in range(100):
        buffered()
    [(delay, flush)] = consumer.hub.later
    assert delay == DELAY_S
    assert not flushed
    flush()
    assert len(flushed) == 1
    buffered()
    assert len(consumer.hub.later) == 2
    assert consumer.event_dispatcher.buffer_limit == EVENTS_A_MESSAGE


def test_without_a_loop_celerys_own_way_stays() -> None:
    consumer = worker(hub=None)
    BufferEvents(consumer).start(consumer)
    assert consumer.event_dispatcher.on_send_buffered is None


def test_what_is_buffered_goes_out_at_the_stop_if_it_can() -> None:
    flushed: list[None] = []
    consumer = worker(hub=Hub(), flush=lambda: flushed.append(None))
    BufferEvents(consumer).stop(consumer)
    assert flushed

    def gone() -> None:
        raise OSError("gone")

    BufferEvents(consumer).stop(worker(hub=Hub(), flush=gone))
