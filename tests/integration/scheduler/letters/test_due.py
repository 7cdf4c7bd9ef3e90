"""Letters that are due are sent once, as they were, with their attempts; operators may send or discard them before."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeray.scheduler.duties.due_retries import DueRetries
from celeray.scheduler.errors import OperatorInputError
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import HEADER, Attempt, Attempts, attempts_of
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.due import SentDue, send_due
from celeray.scheduler.letters.envelope import without_header
from celeray.scheduler.letters.record import LetterState
from celeray.scheduler.letters.redrive import GONE, Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from celeray.scheduler.transport.ending import Ending, end_unleased
from tests.integration.scheduler.letters.conftest import hold_of
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker, Side

LIST = f"cpu.analysis{SEPARATOR}5"
Schedule = Callable[..., bytes]


def history(count: int = 1, exception: str = "ValueError") -> Attempts:
    made = Attempts()
    for number in range(count):
        one = Attempt(
            number=1,
            outcome="exception",
            ended_at=number,
            worker="w",
            exception=exception,
            message=f"{number}",
        )
        made = made.plus(one, retried=True)
    return made


@pytest.fixture
def schedule(broker: Broker) -> Schedule:
    """Schedules a message under an id; returns its bytes."""

    def make(
        letter: str, in_s: float = 0.0, *, attempts: int = 1, list_name: str = LIST, **changes: Any
    ) -> bytes:
        document = {
            "body": "W10=",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": f"id-{letter}", "task": "app.work", "n": letter, **changes.get("headers", {})},
            "properties": {
                "body_encoding": "base64",
                "priority": 5,
                "delivery_tag": letter,
                "delivery_info": {"exchange": "", "routing_key": "cpu.analysis"},
            },
        }
        raw = changes.get("message", json.dumps(document).encode())
        made = history(attempts)
        ending = Ending("failed", "why", made.packed(), made.total, made.last.exception, in_s)  # type: ignore[union-attr]
        end_unleased(broker.client, Keys(), letter, ending, list_name, raw)
        return bytes(raw)

    return make


def forward(broker: Broker, now: float | None = None) -> SentDue:
    return send_due(broker.client, Keys(), now, dedup_hold_max_s=3600)


def test_the_message_comes_back_as_it_was_with_its_attempts(schedule: Schedule, broker: Broker) -> None:
    raw = schedule("a", attempts=2)

    assert forward(broker) == SentDue(sent=1)
    (sent,) = broker.client.lrange(LIST, 0, -1)
    document = json.loads(sent)
    tag = document["properties"]["delivery_tag"]
    assert tag != "a"
    assert attempts_of(document["headers"]) == history(2)
    assert without_header(sent, HEADER) == raw.replace(
        b'"delivery_tag": "a"', f'"delivery_tag": "{tag}"'.encode()
    )
    assert not broker.client.keys("celeray:scheduled*")
    assert forward(broker) == SentDue()


def test_not_before_its_time_by_any_clock(schedule: Schedule, broker: Broker, letters: Letters) -> None:
    schedule("a", 60)
    (letter,) = letters.page(LetterFilter(state=LetterState.SCHEDULED), 10).letters
    assert letter.due_at is not None
    duty = DueRetries(broker.client, Keys(), dedup_hold_max_s=3600)

    assert duty.run_once(letter.due_at - 1) == ""
    assert duty.run_once(letter.due_at + 1) == "1 tasks sent again"
    assert duty.run_once(letter.due_at + 1) == ""


def test_what_is_due_first_runs_first_and_before_what_waits(schedule: Schedule, broker: Broker) -> None:
    broker.client.lpush(LIST, '{"properties": {}, "headers": {"n": "old"}}')
    for number in range(450):
        schedule(f"{number}", number / 1000)
    at = float(broker.client.zscore("celeray:scheduled:due", "449")) + 1

    assert forward(broker, at).sent == 450
    found = broker.headers(LIST)
    # In front of the list comes what was sent in a later part, and within a part what was due first.
    assert sorted(found[:450], key=int) == [str(number) for number in range(450)]
    assert found[-1] == "old"


def test_any_number_of_keepers_sends_each_once(schedule: Schedule, broker: Broker, redis_url: str) -> None:
    for number in range(300):
        schedule(f"{number}")
    done: list[SentDue] = []
    barrier = threading.Barrier(4)

    def keeper() -> None:
        own = Broker(redis_url)
        barrier.wait()
        done.append(forward(own))
        own.client.close()

    threads = [threading.Thread(target=keeper) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(one.sent for one in done) == 300
    assert sorted(broker.headers(LIST), key=int) == [str(number) for number in range(300)]


def test_of_a_paused_queue_it_waits_on_its_list(schedule: Schedule, broker: Broker, side: Side) -> None:
    broker.client.hset("celeray:paused", "cpu.analysis", "{}")
    schedule("a")

    assert forward(broker).sent == 1
    assert side.get("cpu.analysis") is None
    assert broker.client.llen(LIST) == 1
    broker.client.hdel("celeray:paused", "cpu.analysis")
    assert side.get("cpu.analysis") is not None


@pytest.mark.parametrize(
    "broken",
    [{"message": b"{"}, {"message": b'{"headers": {}}'}, {"list_name": "", "message": b"[]"}],
)
def test_what_can_not_be_sent_is_parked(
    schedule: Schedule, broker: Broker, letters: Letters, broken: dict[str, Any]
) -> None:
    schedule("a", **broken)

    assert forward(broker) == SentDue(parked=1)
    letter = letters.get("a")
    assert letter is not None
    assert (letter.state, letter.reason, letter.due_at) == (LetterState.PARKED, "failed", None)
    assert letter.unreadable
    assert forward(broker) == SentDue()


def test_what_has_no_record_is_forgotten(schedule: Schedule, broker: Broker) -> None:
    broker.client.zadd("celeray:scheduled:due", {f"ghost-{number}": 1 for number in range(450)})
    schedule("a")

    assert forward(broker) == SentDue(sent=1)
    assert not broker.client.keys("celeray:scheduled*")


def test_a_list_of_another_kind_is_left_alone(schedule: Schedule, broker: Broker, letters: Letters) -> None:
    digest = hold_of("key")
    broker.client.set(LIST, "x")
    schedule("a", headers={"celeray_hold": f"{digest}:tok"})
    broker.client.hset(f"celeray:dedup:{digest}", mapping={"id": "id-a", "m:tok": "1"})

    assert forward(broker) == SentDue(parked=1)
    assert letters.count() == 1
    assert not broker.client.exists(f"celeray:dedup:{digest}"), "its key is free"


def test_a_dedup_key_is_held_again(schedule: Schedule, broker: Broker) -> None:
    digest = hold_of("key")
    schedule("a", headers={"celeray_hold": f"{digest}:tok"})
    forward(broker)

    assert broker.client.hgetall(f"celeray:dedup:{digest}") == {b"id": b"id-a", b"m:tok": b"1"}


def test_sent_by_an_operator_it_begins_anew(
    schedule: Schedule, broker: Broker, letters: Letters, redrive: Redrive
) -> None:
    raw = schedule("a", 3600, attempts=2)
    chosen = Selection(filter=LetterFilter(state=LetterState.SCHEDULED))

    assert redrive.run(chosen, RedriveTerms(), by="ops").sent == 1
    (sent,) = broker.client.lrange(LIST, 0, -1)
    assert HEADER.encode() not in sent
    assert json.loads(sent)["headers"] == json.loads(raw)["headers"]
    assert forward(broker, 2e9) == SentDue()
    again = redrive.run(Selection(ids=("a",)), RedriveTerms(), by="ops")
    assert (again.sent, again.skipped_by_reason) == (0, {GONE: 1})
    (past,) = letters.page(LetterFilter(state=LetterState.REDRIVEN), 10).letters
    assert (past.id, past.task, past.task_id, past.queue, past.attempts) == (
        "a",
        "app.work",
        "id-a",
        "cpu.analysis",
        2,
    )
    assert past.past_at is not None


def test_discarded_it_is_never_sent(
    schedule: Schedule, broker: Broker, letters: Letters, discard: Discard
) -> None:
    schedule("a")

    assert discard.run(Selection(ids=("a",)), by="ops", why="cancelled").discarded == 1
    assert forward(broker) == SentDue()
    assert broker.client.llen(LIST) == 0
    letter = letters.get("a")
    assert letter is not None
    assert (letter.state, letter.history, letter.body) == (LetterState.DISCARDED, (), None)
    assert letter.message_base64 == ""


def test_what_waits_is_no_dead_letter_yet(
    schedule: Schedule, letters: Letters, discard: Discard, park: Any, redrive: Redrive
) -> None:
    schedule("a", 3600)
    park("b")

    assert (letters.count(), letters.count_scheduled()) == (1, 1)
    assert letters.reasons() == {"poison": 1}
    assert [letter.id for letter in letters.page(LetterFilter(), 10).letters] == ["b"]
    # Neither age nor number forgets it, and all means what is parked.
    assert discard.trim(before=4e9, most=1) == (1, 0)
    assert redrive.run(Selection(all=True), RedriveTerms(dry_run=True), by="ops").matched == 0
    assert letters.count_scheduled() == 1


def test_by_exception(schedule: Schedule, letters: Letters) -> None:
    schedule("a", 60)

    def found(pattern: str) -> int:
        return letters.page(LetterFilter(state=LetterState.SCHEDULED, exception=pattern), 10).total

    assert (found("ValueError"), found("Value*"), found("Key*")) == (1, 1, 0)


@pytest.mark.parametrize("state", [LetterState.REDRIVEN, LetterState.DISCARDED])
def test_what_is_past_can_not_be_changed(redrive: Redrive, discard: Discard, state: LetterState) -> None:
    chosen = Selection(filter=LetterFilter(state=state))
    with pytest.raises(OperatorInputError, match="state"):
        redrive.run(chosen, RedriveTerms(), by="ops")
    with pytest.raises(OperatorInputError, match="state"):
        discard.run(chosen, by="ops", why="x")


def test_what_is_past_is_bounded(
    schedule: Schedule, broker: Broker, discard: Discard, letters: Letters
) -> None:
    old = float(broker.client.time()[0]) - 3601
    broker.client.zadd(
        "celeray:parked:past:at", {"old": old, **{f"n{number}": old + 3600 for number in range(10_000)}}
    )
    broker.client.hset("celeray:parked:past", "old", b"x")
    schedule("a")
    discard.run(Selection(ids=("a",)), by="ops", why="cancelled")

    assert broker.client.zcard("celeray:parked:past:at") == 10_000
    assert not broker.client.hexists("celeray:parked:past", "old")
    assert broker.client.hexists("celeray:parked:past", "a")
