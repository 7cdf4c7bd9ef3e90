"""Sending letters again: the same bytes, once, in their order, where asked; and what is refused."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.errors import OperatorInputError, UnknownQueueError
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.redrive import GONE, Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from celeray.scheduler.settings import Settings
from tests.integration.scheduler.letters.conftest import hold_of
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker, Side

LIST = f"cpu.analysis{SEPARATOR}5"
AS_IT_IS = RedriveTerms()
EVERY = Selection(all=True)


def trail(broker: Broker) -> list[tuple[str, str, str, str]]:
    records = AuditTrail(broker.client, Keys()).page(100).records
    return [(item.action, item.by, item.target, item.why) for item in records]


def tag_of(raw: bytes) -> str:
    return str(json.loads(raw)["properties"]["delivery_tag"])


def test_the_original_bytes_under_a_new_tag(redrive: Redrive, park: Any, broker: Broker) -> None:
    raw = park("a")
    done = redrive.run(Selection(ids=("a",)), AS_IT_IS, by="ops", why="fixed")
    (sent,) = broker.client.lrange(LIST, 0, -1)
    assert (done.matched, done.sent, done.skipped) == (1, 1, 0)
    assert tag_of(sent) != "a"
    assert sent == raw.replace(b'"delivery_tag": "a"', b'"delivery_tag": "%s"' % tag_of(sent).encode())
    assert broker.parked() == []
    assert trail(broker) == [("redrive", "ops", "1 dead letters by id: a", "fixed")]
    again = redrive.run(Selection(ids=("a",)), AS_IT_IS, by="ops")
    assert (again.sent, again.skipped_by_reason) == (0, {GONE: 1})
    assert len(trail(broker)) == 1
    assert broker.client.llen(LIST) == 1


def test_the_oldest_comes_first(redrive: Redrive, park: Any, broker: Broker) -> None:
    broker.client.lpush(LIST, '{"properties": {}, "headers": {"n": -1}}')
    for number in range(450):
        park(f"{number}", at=2000.0 - number, headers={"n": number})
    assert redrive.run(EVERY, AS_IT_IS, by="ops").sent == 450
    assert broker.headers(LIST) == [-1, *reversed(range(450))]
    # One record for each part that one script took.
    assert [target.split()[0] for _, _, target, _ in trail(broker)] == ["50", "200", "200"]


def test_pressed_by_many_at_once_it_is_sent_once(park: Any, redis_url: str, broker: Broker) -> None:
    for number in range(300):
        park(f"{number}", headers={"n": number})
    counts: list[int] = []
    barrier = threading.Barrier(6)

    def press() -> None:
        own = Broker(redis_url)
        redrive = Redrive(Letters(own.client, Keys()), Settings())
        barrier.wait()
        counts.append(redrive.run(EVERY, AS_IT_IS, by="ops").sent)
        own.client.close()

    threads = [threading.Thread(target=press) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(broker.headers(LIST)) == list(range(300))
    assert sum(counts) == 300
    assert sum(int(target.split()[0]) for _, _, target, _ in trail(broker)) == 300


def test_a_filter_and_a_dry_run(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("a", task="app.paint")
    park("b", task="app.work")
    park("c", task="app.paint", message=b"{")
    chosen = Selection(filter=LetterFilter(reason="poison"))
    found = redrive.run(chosen, RedriveTerms(dry_run=True), by="ops")
    assert (found.dry_run, found.matched, found.sent, found.skipped) == (True, 3, 2, 1)
    assert (broker.client.llen(LIST), len(broker.parked()), trail(broker)) == (0, 3, [])
    done = redrive.run(chosen, AS_IT_IS, by="ops")
    assert (done.sent, done.skipped_by_reason) == (2, {"unreadable": 1})
    assert done.skipped_letters[0].id == "c"
    assert "no JSON" in done.skipped_letters[0].reason
    assert len(broker.parked()) == 1


def test_what_the_claim_script_cannot_read_stays(redrive: Redrive, park: Any, broker: Broker) -> None:
    # Python takes a lone surrogate, cjson does not: sent, it would be parked again at once.
    park("a", headers={"x": "\ud800"})
    for terms in (RedriveTerms(dry_run=True), AS_IT_IS):
        done = redrive.run(EVERY, terms, by="ops")
        assert (done.sent, done.skipped_by_reason) == (0, {"unreadable": 1})
    assert len(broker.parked()) == 1
    assert broker.client.llen(LIST) == 0


def test_rubbish_is_refused_one_by_one(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("good")
    park("list", message=b"[]")
    broker.client.hset("celeray:parked", b"\xff", b"\xc1")
    broker.client.hset(f"io.storage{SEPARATOR}5", "a", "hash")
    park("hash", queue="io.storage")
    done = redrive.run(Selection(ids=("good", "list", "=FF", "hash", "nowhere")), AS_IT_IS, by="ops")
    assert done.sent == 1
    assert {item.id: item.reason for item in done.skipped_letters} == {
        "list": "unreadable: not a JSON object",
        "=FF": next(item.reason for item in done.skipped_letters if item.id == "=FF"),
        "hash": "its list is a hash",
        "nowhere": GONE,
    }
    assert done.skipped_by_reason == {"unreadable": 2, GONE: 1, "its list is a hash": 1}
    assert broker.client.hlen("celeray:parked") == 3


def test_edits(redrive: Redrive, park: Any, broker: Broker) -> None:
    for letter in ("a", "b", "c"):
        park(letter, step=3, headers={"celeray_priority": 7})
    run = redrive.run
    run(Selection(ids=("a",)), RedriveTerms(queue="io.storage"), by="ops")
    run(Selection(ids=("b",)), RedriveTerms(priority=10), by="ops")
    run(Selection(ids=("c",)), RedriveTerms(queue="io.storage", priority=1), by="ops")
    assert trail(broker)[0][2] == "1 dead letters by id: c, to io.storage, at priority 1"
    (a,), (b,), (c,) = (
        broker.bodies(name) for name in (f"io.storage{SEPARATOR}3", "cpu.analysis", f"io.storage{SEPARATOR}9")
    )
    assert [item["properties"]["priority"] for item in (a, b, c)] == [3, 0, 9]
    assert [item["headers"]["celeray_priority"] for item in (a, b, c)] == [7, 10, 1]
    places = [item["properties"]["delivery_info"]["routing_key"] for item in (a, b, c)]
    assert places == ["io.storage", "cpu.analysis", "io.storage"]
    assert all(item["headers"]["empty"] == [] and item["headers"]["large"] == 2**70 for item in (a, b, c))


def test_with_a_key_prefix(redis_url: str, broker: Broker) -> None:
    own = Side(redis_url, global_keyprefix="app:")
    own.publish("x", "cpu.analysis", priority=5, id="i", task="t")
    held = own.get("cpu.analysis")
    own.channel.leases.park(own.channel.leases.get(held.delivery_tag), "some reason", "")
    letters = Letters(broker.client, Keys(prefix="app:"))
    (letter,) = letters.page(LetterFilter(), 10).letters
    assert (letter.queue, letter.priority) == ("cpu.analysis", 5)
    run = Redrive(letters, Settings()).run
    assert run(EVERY, RedriveTerms(queue="io.storage"), by="ops").sent == 1
    assert broker.client.llen(f"app:io.storage{SEPARATOR}5") == 1
    assert broker.client.xlen("app:celeray:audit") == 1
    assert own.get("io.storage").decode() == "x"
    own.connection.close()


def test_without_a_list_the_message_says_where(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("a", queue="", step=0)
    raw = json.loads(park("b", queue="", step=0))
    raw["properties"]["delivery_info"]["routing_key"] = "cpu.analysis"
    raw["properties"]["priority"] = 5
    park("b", queue="", step=0, message=json.dumps(raw).encode())
    done = redrive.run(EVERY, AS_IT_IS, by="ops")
    assert (done.sent, [item.id for item in done.skipped_letters]) == (1, ["a"])
    assert broker.client.llen(LIST) == 1
    assert redrive.run(EVERY, RedriveTerms(queue="io.storage"), by="ops").sent == 1


def test_a_wrong_word_sends_nothing(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("a")
    with pytest.raises(UnknownQueueError):
        redrive.run(EVERY, RedriveTerms(queue="nowhere"), by="ops")
    with pytest.raises(OperatorInputError):
        redrive.run(Selection(), AS_IT_IS, by="ops")
    with pytest.raises(OperatorInputError):
        redrive.run(EVERY, AS_IT_IS, by="")
    with pytest.raises(OperatorInputError):
        redrive.run(EVERY, AS_IT_IS, by="ops", why="two\nlines")
    assert len(broker.parked()) == 1


def test_a_rate_is_kept(letters: Letters, park: Any) -> None:
    for number in range(100):
        park(f"{number}")
    clock = ManualClock()
    counts: list[int] = []

    def sleep(seconds: float) -> None:
        counts.append(100 - letters.count())
        clock.advance(seconds)

    redrive = Redrive(letters, Settings(), clock, sleep)
    start = clock.monotonic()
    assert redrive.run(EVERY, RedriveTerms(rate=50), by="ops").sent == 100
    assert clock.monotonic() - start == pytest.approx(100 / 50 - 0.2)
    assert counts == list(range(10, 100, 10))


def test_a_dedup_key_is_held_again_unless_another_has_it(
    redrive: Redrive, park: Any, side: Side, broker: Broker
) -> None:
    free, other = hold_of("free"), hold_of("other")
    park("a", step=0, queue="q", headers={"celeray_hold": f"{free}:id-a-1"})
    park("b", step=0, queue="q", headers={"celeray_hold": f"{other}:id-b-1"})
    broker.client.hset(f"celeray:dedup:{other}", mapping={"id": "somebody", "m:somebody-1": "1"})
    assert redrive.run(EVERY, AS_IT_IS, by="ops").sent == 2
    assert broker.client.hgetall(f"celeray:dedup:{free}") == {b"id": b"id-a", b"m:id-a-1": b"1"}
    assert 0 < broker.client.ttl(f"celeray:dedup:{free}") <= Settings().dedup_hold_max_s
    for _ in range(2):
        message = side.get("q")
        message.ack()
    # With the acknowledgement its own key is free, and somebody else's is left alone.
    assert broker.client.exists(f"celeray:dedup:{free}") == 0
    assert broker.client.hgetall(f"celeray:dedup:{other}") == {b"id": b"somebody", b"m:somebody-1": b"1"}


def test_letters_and_sent_and_discarded_are_what_was_parked(
    redis_url: str, park: Any, broker: Broker
) -> None:
    for number in range(600):
        park(f"{number}", reason=f"r{number % 3}", headers={"n": number})
    counts: dict[str, int] = {"sent": 0, "discarded": 0}
    lock = threading.Lock()

    def change(number: int) -> None:
        own = Broker(redis_url)
        letters = Letters(own.client, Keys())
        ids = Selection(ids=tuple(str(n) for n in range(number * 40, number * 40 + 250)))
        if number % 2:
            sent, gone = Redrive(letters, Settings()).run(ids, AS_IT_IS, by="ops").sent, 0
        else:
            sent, gone = 0, Discard(letters).run(ids, by="ops", why="x").discarded
        with lock:
            counts["sent"] += sent
            counts["discarded"] += gone
        own.client.close()

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = broker.headers(LIST)
    assert len(sent) == len(set(sent)) == counts["sent"]
    assert len(broker.parked()) + counts["sent"] + counts["discarded"] == 600
    done = {"redrive": 0, "discard": 0}
    for action, _, target, _ in trail(broker):
        done[action] += int(target.split()[0])
    assert done == {"redrive": counts["sent"], "discard": counts["discarded"]}
