"""What the bridge can't run ends with an error that says why, whoever published it."""

from __future__ import annotations

import pytest
from celery import Celery

from celeray.scheduler.errors import NeverFitsError, RequirementError

from .live import LiveBridge, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


@pytest.fixture
def stock(shared_bridge: LiveBridge) -> Celery:
    """A producer that knows nothing of celeray."""
    return Celery("stock", broker=shared_bridge.url, backend=shared_bridge.url, set_as_current=False)


@pytest.mark.slow
def test_too_large_for_the_known_cluster_is_refused_at_publish(app: Celery) -> None:
    app.tasks["gpu.here"].delay().get(timeout=60)
    headers = {"resource_requirements": {"vram_gb": 25}}
    # The bridge tells its capacity within seconds, and a producer remembers what it read for a few.
    with pytest.raises(NeverFitsError, match=r"vram_gb=25: the largest device has 24 GiB"):
        until(lambda: app.tasks["gpu.here"].apply_async(headers=headers, expires=1) and None, "it is refused")


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ({"vram_gb": "12 elephants"}, "vram_gb='12 elephants'"),
        ({"vram_gb": -1}, "vram_gb=-1"),
        ({"vram_gb": float("nan")}, "vram_gb=nan"),
        ({"vrm_gb": 1}, "vrm_gb=1"),
    ],
)
def test_what_can_not_be_understood_is_refused_at_publish(
    app: Celery, requirements: dict[str, object], message: str
) -> None:
    with pytest.raises(RequirementError, match=message):
        app.tasks["gpu.here"].apply_async(headers={"resource_requirements": requirements})


def test_from_a_stock_producer_it_fails_with_the_same_error(stock: Celery) -> None:
    result = stock.send_task(
        "gpu.here", queue="gpu.processing", headers={"resource_requirements": {"vram_gb": "12 elephants"}}
    )
    with pytest.raises(Exception, match="12 elephants"):
        result.get(timeout=60)
    assert result.state == "FAILURE"


def test_from_a_stock_producer_what_fits_nowhere_fails_and_never_waits_for_ever(stock: Celery) -> None:
    result = stock.send_task(
        "gpu.here", queue="gpu.processing", headers={"resource_requirements": {"vram_gb": 100}}
    )
    with pytest.raises(Exception, match="the largest device has 24 GiB"):
        result.get(timeout=60)


def test_a_stock_producers_task_runs_by_name_alone(stock: Celery) -> None:
    result = stock.send_task("gpu.here", queue="gpu.processing")
    assert result.get(timeout=60)["devices"].startswith("GPU-sim-")
