"""What became a dead letter on real workers runs after it was sent again."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from tests.integration.chord_redrive import dead_member_completes_its_chord
from tests.integration.scheduler.transport.conftest import Broker, Side

pytestmark = pytest.mark.unmeasured

MORE = ("-I", "tests.apps.front_work", "-P", "prefork", "-c", "1", "-Q", "cpu.analysis")
TIMEOUT_S = 60


def test_poison_is_parked_sent_again_and_runs(
    front: Celery, start_worker: Any, broker: Broker, eventually: Any, letters: Letters, redrive: Redrive
) -> None:
    start_worker(*MORE, CELERAY_TRANSPORT="leased")
    sent = front.send_task("front.mortal", args=["died", 4], queue="cpu.analysis", priority=7)
    eventually(letters.count, TIMEOUT_S)
    (letter,) = letters.page(LetterFilter(), 10).letters
    assert (letter.reason, letter.task, letter.task_id) == ("poison", "front.mortal", sent.id)
    assert (letter.queue, letter.priority, letter.begun) == ("cpu.analysis", 7, 3)
    # Idle by now: the push alone wakes it.
    assert redrive.run(Selection(filter=LetterFilter(reason="poison")), RedriveTerms(), by="ops").sent == 1
    assert sent.get(timeout=TIMEOUT_S) == {"priority": 7, "queue": "cpu.analysis"}
    # It died once more on the way, which would have been once too often, were begun runs not counted from none again.
    assert int(broker.client.get("died")) == 5
    eventually(broker.nothing_held)
    assert letters.count() == 0


def test_edits_reach_the_task(
    front: Celery, start_worker: Any, side: Side, letters: Letters, redrive: Redrive
) -> None:
    sent = front.tasks["front.seen"].apply_async(queue="io.storage", priority=2)
    held = side.get("io.storage")
    side.channel.leases.park(side.channel.leases.get(held.delivery_tag), "unknown_task", "for the test")
    start_worker(*MORE, CELERAY_TRANSPORT="leased")
    terms = RedriveTerms(queue="cpu.analysis", priority=9)
    assert redrive.run(Selection(all=True), terms, by="ops").sent == 1
    assert sent.get(timeout=TIMEOUT_S) == {"priority": 9, "queue": "cpu.analysis", "retries": 0}
    assert letters.count() == 0


def test_a_deduplicated_task_is_one_again_after_it_was_sent_again(
    front: Celery, start_worker: Any, broker: Broker, side: Side, redrive: Redrive, eventually: Any
) -> None:
    def submit() -> str:
        return str(front.tasks["front.seen"].apply_async(args=[1], headers={"deduplicate": True}).id)

    first = submit()
    held = side.get("cpu.analysis")
    assert broker.client.keys("celeray:dedup:*")
    side.channel.leases.park(side.channel.leases.get(held.delivery_tag), "some reason", "for the test")
    assert not broker.client.keys("celeray:dedup:*")
    assert redrive.run(Selection(all=True), RedriveTerms(), by="ops").sent == 1
    assert submit() == first
    start_worker(*MORE, CELERAY_TRANSPORT="leased")
    eventually(lambda: not broker.client.keys("celeray:dedup:*"), TIMEOUT_S)
    assert submit() != first


@pytest.mark.parametrize("dead", [(2,), (0, 4)])
def test_a_dead_member_completes_its_chord(
    front: Celery, start_worker: Any, redis_url: str, dead: tuple[int, ...]
) -> None:
    start_worker(*MORE, CELERAY_TRANSPORT="leased")
    dead_member_completes_its_chord(front, redis_url, "front.needs", "front.total", dead=dead)
