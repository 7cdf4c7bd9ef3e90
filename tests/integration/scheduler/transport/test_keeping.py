"""The keeper of leases after its channel has closed."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celeray.scheduler.transport.leases import LeaseBook


def test_what_could_not_be_given_back_at_close_is_given_back_later(
    side: Any, broker: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = side(lease_s=0.3)
    holder.publish("waits")
    holder.publish("runs")
    assert holder.get().decode() == "waits"
    running = holder.get()
    holder.channel.qos.begun(running.delivery_tag)
    book = holder.channel.leases

    def unreachable(*_: Any, **__: Any) -> Any:
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as away:
        away.setattr(LeaseBook, "give_back", unreachable)
        away.setattr(LeaseBook, "flush", unreachable)
        holder.channel.close()
    eventually(lambda: broker.client.llen("q") == 1)
    assert broker.bodies()[0]["body"]
    assert [lease.delivery_tag for lease in book.held()] == [running.delivery_tag], "what runs is kept"
    running.channel.qos.ack(running.delivery_tag)
    eventually(broker.nothing_held)
