"""What anybody puts on the dead-letter queue becomes letters, once, and a redrive sends it where it belongs."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from celeray.scheduler.duties.front_door import FrontDoor
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.envelope import body_of
from celeray.scheduler.letters.front_door import TakenIn, take_in
from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from tests.integration.scheduler.letters.conftest import hold_of
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker, Side

EVERY = Selection(all=True)
SHAPE = {
    "task": {
        "name": "film.generate_thumbnail",
        "args": [7],
        "kwargs": {"size": "small"},
        "id": "inner-1",
        "priority": 8,
    },
    "error": "OSError: disk full",
    "retry_count": 4,
}


def door(broker: Broker) -> str:
    return FrontDoor(broker.client, Keys(), "dlq").run_once(0.0)


def only(letters: Letters) -> Any:
    (letter,) = letters.page(LetterFilter(), 10).letters
    return letters.get(letter.id)


def raw_message(**changes: Any) -> bytes:
    document = {
        "body": "W1tdLHt9LHt9XQ==",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "i", "task": "film.analyze_scene", "empty": [], "large": 2**70},
        "properties": {
            "body_encoding": "base64",
            "priority": 5,
            "delivery_tag": "t",
            "delivery_info": {"exchange": "", "routing_key": "dlq"},
        },
    }
    return json.dumps({**document, **changes}).encode()


def test_a_stock_producers_message_goes_to_the_route_of_its_task(
    stock: Celery, broker: Broker, letters: Letters, redrive: Redrive
) -> None:
    sent = stock.send_task("film.analyze_scene", args=[[], 2**70], kwargs={"x": []}, queue="dlq")
    (original,) = broker.client.lrange("dlq", 0, -1)
    assert door(broker) == "1 messages taken in"
    assert broker.client.exists("dlq") == 0
    letter = only(letters)
    assert (letter.reason, letter.task, letter.task_id, letter.queue) == (
        "reported",
        "film.analyze_scene",
        sent.id,
        "dlq",
    )
    assert (letter.unreadable, letter.original_base64, letter.detail) == (None, None, "")
    assert letters.reasons() == {"reported": 1}
    assert broker.parked()[0]["message"] == original
    assert [redrive.run(EVERY, RedriveTerms(), by="ops").sent for _ in range(2)] == [1, 0]
    (moved,) = broker.client.lrange("cpu.analysis", 0, -1)
    before, after = json.loads(original), json.loads(moved)
    assert (after["body"], after["headers"]) == (before["body"], before["headers"])
    assert after["properties"]["delivery_info"] == {"exchange": "", "routing_key": "cpu.analysis"}
    assert door(broker) == ""


def test_a_task_without_a_route_asks_for_a_queue(
    stock: Celery, broker: Broker, letters: Letters, redrive: Redrive
) -> None:
    stock.send_task("film.unheard_of", queue="dlq")
    door(broker)
    done = redrive.run(EVERY, RedriveTerms(), by="ops")
    assert (done.sent, done.skipped_by_reason) == (0, {"no route": 1})
    assert "name a queue" in done.skipped_letters[0].reason
    assert letters.count() == 1
    assert redrive.run(EVERY, RedriveTerms(queue="io.storage"), by="ops").sent == 1
    assert broker.client.llen("io.storage") == 1


@pytest.mark.parametrize("by", ["stock", "kombu", "redis"])
def test_the_older_shape_becomes_a_message_of_its_task(
    by: str, stock: Celery, redis_url: str, broker: Broker, letters: Letters, redrive: Redrive
) -> None:
    if by == "stock":
        stock.send_task("film.handle_dead_letter", kwargs=SHAPE, queue="dlq")
    elif by == "kombu":
        with Connection(redis_url) as connection, connection.SimpleQueue("dlq") as queue:
            queue.put(SHAPE)
    else:
        broker.client.lpush("dlq", json.dumps(SHAPE))
    (original,) = broker.client.lrange("dlq", 0, -1)
    assert door(broker) == "1 messages taken in"
    letter = only(letters)
    assert (letter.task, letter.task_id, letter.priority) == ("film.generate_thumbnail", "inner-1", 8)
    assert (letter.detail, letter.attempts, letter.unreadable) == ("OSError: disk full", 4, None)
    assert broker.parked()[0]["original"] == original
    assert redrive.run(EVERY, RedriveTerms(), by="ops").sent == 1
    (sent,) = broker.bodies(f"cpu.thumbnail{SEPARATOR}2")
    assert json.loads(body_of(sent) or b"")[:2] == [[7], {"size": "small"}]
    assert sent["headers"]["id"] == "inner-1"
    assert sent["properties"]["delivery_info"]["routing_key"] == "cpu.thumbnail"


def test_what_can_not_be_sent_is_kept_with_its_bytes(
    broker: Broker, letters: Letters, redrive: Redrive
) -> None:
    rubbish = [b"\xff\x00", b"not json", json.dumps({**SHAPE, "task": {"args": [1]}}).encode()]
    broker.client.lpush("dlq", *rubbish)
    assert door(broker) == "3 messages taken in, 3 of which can't be sent"
    assert sorted(record["message"] for record in broker.parked()) == sorted(rubbish)
    assert all("can't be sent" in letter.detail for letter in letters.page(LetterFilter(), 10).letters)
    assert redrive.run(EVERY, RedriveTerms(), by="ops").skipped_by_reason == {"unreadable": 3}
    assert letters.count() == 3


def test_all_ten_lists_the_most_urgent_first_and_the_same_bytes_twice(
    broker: Broker, letters: Letters
) -> None:
    names = Keys().queue_lists("dlq")
    for step, name in reversed(list(enumerate(names))):
        for number in range(2):
            broker.client.lpush(name, raw_message(headers={"id": f"{step}-{number}", "task": "t"}))
    broker.client.lpush(names[9], *[raw_message(headers={"id": "same", "task": "t"})] * 3)
    assert take_in(broker.client, Keys(), "dlq") == TakenIn(23, 0)
    found = [letters.get(item) for item in letters.matching(LetterFilter())]
    ids = [letter.task_id for letter in found if letter is not None]
    assert ids == [f"{step}-{number}" for step in range(10) for number in range(2)] + ["same"] * 3
    assert len({letter.id for letter in found if letter is not None}) == 23


def test_a_key_that_is_no_list_and_an_empty_queue(broker: Broker) -> None:
    assert door(broker) == ""
    broker.client.set("dlq", "x")
    broker.client.lpush(f"dlq{SEPARATOR}3", raw_message())
    assert door(broker) == "1 messages taken in"


def test_by_many_keepers_at_once_each_is_one_letter(redis_url: str, broker: Broker, letters: Letters) -> None:
    for number in range(400):
        broker.client.lpush("dlq", raw_message(headers={"id": f"i{number}", "task": "t"}))
    counts: list[int] = []
    barrier = threading.Barrier(4)

    def keep() -> None:
        own = Broker(redis_url)
        barrier.wait()
        counts.append(take_in(own.client, Keys(), "dlq").letters)
        own.client.close()

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == letters.count() == 400
    assert {letter.task_id for letter in letters.walk()} == {f"i{number}" for number in range(400)}
    assert broker.client.exists("dlq") == 0


def test_a_dedup_key_is_let_go_and_held_again(broker: Broker, redrive: Redrive, side: Side) -> None:
    digest = hold_of("key")
    broker.client.hset(f"celeray:dedup:{digest}", mapping={"id": "i", "m:i-1": "1"})
    headers = {"id": "i", "task": "film.analyze_scene", "celeray_hold": f"{digest}:i-1"}
    broker.client.lpush("dlq", raw_message(headers=headers))
    door(broker)
    assert broker.client.exists(f"celeray:dedup:{digest}") == 0
    assert redrive.run(EVERY, RedriveTerms(), by="ops").sent == 1
    assert broker.client.hgetall(f"celeray:dedup:{digest}") == {b"id": b"i", b"m:i-1": b"1"}


def test_with_a_key_prefix(broker: Broker) -> None:
    keys = Keys(prefix="app:")
    broker.client.lpush("app:dlq", raw_message())
    assert take_in(broker.client, keys, "dlq").letters == 1
    assert broker.client.hlen("app:celeray:parked") == 1


def test_on_a_worker_the_inner_task_runs_under_its_id(
    front: Celery, stock: Celery, start_worker: Any, broker: Broker, redrive: Redrive
) -> None:
    task = {"name": "front.seen", "id": "from-the-older-days", "queue": "cpu.analysis", "priority": 9}
    stock.send_task("film.handle_dead_letter", kwargs={**SHAPE, "task": task}, queue="dlq")
    door(broker)
    assert redrive.run(EVERY, RedriveTerms(), by="ops").sent == 1
    start_worker("-P", "solo", "-Q", "cpu.analysis", CELERAY_TRANSPORT="leased")
    result = front.AsyncResult("from-the-older-days")
    assert result.get(timeout=60) == {"priority": 9, "queue": "cpu.analysis", "retries": 0}
