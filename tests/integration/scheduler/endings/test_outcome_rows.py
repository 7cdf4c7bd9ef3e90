"""What is left of a message, however its run ends on a prefork worker."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chord
from celery.exceptions import ChordError
from celery.result import AsyncResult

from celeray.scheduler.installed import settings_of
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.record import LetterDetail, LetterState
from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from tests.integration.bridge.live import until
from tests.integration.outcome_rows import (
    PREFORK,
    Row,
    Site,
    check,
    check_nothing_left,
    check_terminated,
    rows_of,
    send_all,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sent(site: Site) -> dict[Row, str]:
    return send_all(site)


@pytest.mark.parametrize("row", rows_of(PREFORK), ids=str)
def test_row(site: Site, sent: dict[Row, str], row: Row) -> None:
    check(row, site, sent[row])


def test_terminated_in_its_run(site: Site) -> None:
    check_terminated(site)


def test_nothing_is_left_of_them(site: Site, sent: dict[Row, str]) -> None:
    assert sent
    check_nothing_left(site)


FAR = 4e9
"""Seconds since the epoch: all that waits is due by then."""


def scheduled(site: Site, task_id: str) -> LetterDetail:
    """The letter of a task, once it waits."""
    found = until(
        lambda: [one for one in site.letters.walk(LetterState.SCHEDULED) if one.task_id == task_id],
        "it waits to be sent again",
    )
    letter = site.letters.get(found[0].id)
    assert letter is not None
    return letter


def count(site: Site, key: str) -> int:
    return int(site.client.get(key) or 0)


def test_while_a_policy_retries_nothing_has_failed_yet(site: Site) -> None:
    result = site.app.tasks["ends.patient"].apply_async(
        (5,), queue=site.queue, link_error=site.app.tasks["ends.errback"].s()
    )
    letter = scheduled(site, result.id)

    assert until(lambda: result.state == "RETRY", "it is told")
    assert isinstance(result.info, ValueError)
    assert (letter.attempts, letter.retried, letter.exception) == (1, 1, "ValueError")
    assert letter.due_at is not None
    assert letter.due_at - letter.parked_at == pytest.approx(3600)
    assert count(site, f"errback:{result.id}") == 0
    assert site.letter_of(result.id) is None

    assert site.forward(FAR) == 1
    with pytest.raises(ValueError, match="not yet"):
        result.get(timeout=60)
    parked = until(lambda: site.letter_of(result.id), "it is parked")
    assert (parked.attempts, parked.retried) == (2, 1)
    assert ["not yet" in one.traceback for one in parked.history] == [True, True]
    assert until(lambda: count(site, f"errback:{result.id}") == 1, "its errback is called once")


@pytest.mark.parametrize(
    ("task", "args", "options", "outcome"),
    [
        ("patient_sleeps", (30.0,), {"time_limit": 1}, "time_limit"),
        ("patient_dies", (), {}, "worker_lost"),
    ],
)
def test_nor_of_a_run_whose_process_is_gone(
    site: Site, task: str, args: Any, options: dict[str, Any], outcome: str
) -> None:
    errback = site.app.tasks["ends.errback"].s()
    result = site.app.tasks[f"ends.{task}"].apply_async(args, queue=site.queue, link_error=errback, **options)
    letter = scheduled(site, result.id)

    assert [one.outcome for one in letter.history] == [outcome]
    assert letter.reason == outcome
    assert until(lambda: result.state == "RETRY", "it is told")
    # What the pool tells of the same run later changes nothing: other tasks have run there by then.
    assert [site.app.tasks["ends.well"].apply_async(queue=site.queue).get(timeout=60) for _ in range(4)]
    assert AsyncResult(result.id, app=site.app).state == "RETRY"
    assert count(site, f"errback:{result.id}") == 0
    assert Discard(site.letters).run(Selection(ids=(letter.id,)), by="ops", why="shown").discarded == 1


def test_a_chord_has_its_error_once_and_at_the_end(site: Site) -> None:
    tasks = site.app.tasks
    members = [tasks["ends.patient"].s(5).set(queue=site.queue), tasks["ends.well"].s().set(queue=site.queue)]
    body = chord(members, app=site.app)(tasks["ends.gather"].s().set(queue=site.queue))
    failing = body.parent.results[0]
    scheduled(site, failing.id)
    assert until(lambda: body.parent.results[1].ready(), "the other member is done")
    assert not body.ready()

    assert site.forward(FAR) == 1
    assert until(lambda: body.state == "FAILURE", "it is told")
    assert isinstance(body.result, ChordError)


def test_a_chord_goes_on_when_a_retry_succeeds(site: Site) -> None:
    tasks = site.app.tasks
    members = [tasks["ends.patient"].s(1).set(queue=site.queue), tasks["ends.well"].s().set(queue=site.queue)]
    body = chord(members, app=site.app)(tasks["ends.gather"].s().set(queue=site.queue))
    scheduled(site, body.parent.results[0].id)

    assert site.forward(FAR) == 1
    # The retries that the task sees are Celery's own.
    assert body.get(timeout=60) == [0, "well"]


def test_redriven_it_has_its_whole_budget_again(site: Site) -> None:
    result = site.app.tasks["ends.patient"].apply_async((3,), queue=site.queue)
    scheduled(site, result.id)
    site.forward(FAR)
    parked = until(lambda: site.letter_of(result.id), "its policy gives up")
    redrive = Redrive(site.letters, settings_of(site.app))

    assert redrive.run(Selection(ids=(parked.id,)), RedriveTerms(), by="ops").sent == 1
    assert scheduled(site, result.id).attempts == 1
    assert site.forward(FAR) == 1
    assert until(lambda: AsyncResult(result.id, app=site.app).state == "SUCCESS", "it has ended well")


def test_a_revoked_one_is_not_run_again(site: Site) -> None:
    result = site.app.tasks["ends.patient"].apply_async((5,), queue=site.queue)
    scheduled(site, result.id)
    result.revoke()
    assert site.forward(FAR) == 1

    assert until(lambda: result.state == "REVOKED", "it is revoked")
    assert site.letter_of(result.id) is None
