"""What a bridge honours before any device is there: revokes from when it was down, and etas that are far."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from celeray.scheduler.embedded_redis import free_port

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


def test_without_any_ray(broker: str, tmp_path: Path) -> None:
    app = application(broker)
    task = app.tasks["gpu.whole"]
    revoked, far, waits = task.delay(0.0), task.apply_async((0.0,), countdown=3600), task.delay(0.0)
    revoked.revoke()
    bridge = LiveBridge(broker, tmp_path, "--ray-address", f"127.0.0.1:{free_port()}", gpus=None, name="away")
    with redis.Redis.from_url(broker) as client:
        try:
            bridge.start()
            until(lambda: revoked.state == "REVOKED", "it is revoked, though nobody was there to be told")
            until(
                lambda: client.zcard("celeray:etas") == client.hlen("unacked") == 1, "one waits, one is held"
            )
            [listed] = app.control.inspect([bridge.node], timeout=5).scheduled()[bridge.node]
            assert listed["request"]["id"] == far.id
            far.revoke()
            until(lambda: client.zcard("celeray:etas") == 0 and client.hlen("unacked") == 1, "it has left")
            assert (far.state, waits.ready()) == ("REVOKED", False)
        finally:
            bridge.stop()
            for result in (revoked, far, waits):
                result.forget()
