"""What the bridge can't run is parked as it was, and the caller is told as by Celery."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult

from tests.integration.refused_kinds import UNKNOWN, check_parked

from .live import LiveBridge, application

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


@pytest.mark.slow
def test_each_kind_is_parked_and_the_bridge_goes_on(broker: str, tmp_path: Path) -> None:
    bridge = LiveBridge(broker, tmp_path, name="refusing").start()
    try:
        tags = check_parked(broker, "gpu.here", "gpu.processing", bridge.node)

        app = application(broker)
        assert app.tasks["gpu.here"].delay().get(timeout=60)["devices"].startswith("GPU-sim-")
        result = AsyncResult(tags["unknown task"], app=app)
        assert result.state == "FAILURE"
        assert UNKNOWN in str(result.result)
        with redis.Redis.from_url(broker) as client:
            assert client.hlen("celeray:parked") == len(tags)
    finally:
        bridge.stop()
