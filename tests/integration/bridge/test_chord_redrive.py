"""A dead member of a chord that runs on Ray, sent again, completes the chord."""

from __future__ import annotations

import pytest
from celery import Celery

from tests.integration.chord_redrive import dead_member_completes_its_chord

from .live import LiveBridge

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]


@pytest.mark.parametrize("dead", [(2,), pytest.param((0, 4), marks=pytest.mark.slow)])
def test_a_dead_member_completes_its_chord(
    app: Celery, shared_bridge: LiveBridge, dead: tuple[int, ...]
) -> None:
    dead_member_completes_its_chord(app, shared_bridge.url, "gpu.needs", "gpu.gathered", dead=dead)
