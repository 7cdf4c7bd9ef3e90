"""Dead letters and retry policies where the broker is no Redis, over kombu's memory transport, which confirms nothing
and keeps nothing. test_rabbitmq.py has the same over AMQP."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

import celeray
from celeray.scheduler.backoff import RetryPolicy
from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.endings import posting
from celeray.scheduler.endings.letter_first import RETRY_S, LetterFirst
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.due import SentDue, send_due
from celeray.scheduler.letters.outbox import AGAIN_S, CLAIM_S, Outbox
from celeray.scheduler.letters.producing import Producer
from celeray.scheduler.letters.record import LetterDetail, LetterState
from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.settings import Settings
from celeray.scheduler.transport.ending import Ending
from tests.integration.bridge.live import until

pytestmark = [
    pytest.mark.integration,
    # Celery's backend calls it, in the worker's thread of this process.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

ENDING = Ending("failed", "why", b"", 1, "ValueError", None)
AS_IT_IS = RedriveTerms()
QUEUE = "cpu.analysis"


class Site:
    """One app on a broker in memory, with a Redis for results and letters."""

    def __init__(self, url: str, broker: str = "memory://") -> None:
        self.ran: Counter[str] = Counter()
        self.client: Any = redis.Redis.from_url(url)
        self.letters = Letters(self.client, Keys())
        self.app = Celery("memory", broker=broker, backend=url, set_as_current=False)
        if broker == "memory://":
            self.app.conf.broker_transport_options = {"polling_interval": 0.02}
        policies = {"quick": RetryPolicy(kind="constant", base_s=0, max_attempts=3)}
        celeray.install(
            self.app, Settings(retry_policies={"film.retried": "quick"}, custom_retry_policies=policies)
        )

        def fails(task: Any, failures: int) -> int:
            self.ran[task.request.id] += 1
            if self.ran[task.request.id] <= failures:
                raise ValueError(f"run {self.ran[task.request.id]}")
            return int(task.request.retries)

        for name in ("film.plain", "film.retried"):
            self.app.task(fails, name=name, shared=False, bind=True)

    @contextmanager
    def worker(self) -> Iterator[None]:
        root = logging.getLogger()
        level, handlers = root.level, root.handlers[:]
        options: dict[str, Any] = {"perform_ping_check": False, "shutdown_timeout": 30}
        try:
            with start_worker(self.app, pool="solo", queues=[QUEUE], **options):
                yield
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers

    def send(self, failures: int = 1, name: str = "film.plain", **options: Any) -> Any:
        return self.app.tasks[name].apply_async((failures,), queue=QUEUE, **options)

    @contextmanager
    def taken(self) -> Iterator[Any]:
        """A message of the queue. What was not acknowledged goes back to it."""
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            self.app.amqp.queues[QUEUE](channel).declare()
            message = channel.basic_get(QUEUE)
            yield message
            if not message.acknowledged:
                message.requeue()

    def depth(self) -> int:
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            return int(channel._size(QUEUE))

    def leave(self) -> str:
        """A letter of a message that was on the queue; returns its id."""
        with self.taken() as message:
            first(self).leave(message, ENDING)
            message.ack()
        (letter,) = self.letters.walk()
        return letter.id

    def outbox(self) -> Outbox:
        return Outbox(self.client, Keys(), Producer(self.app))

    def redrive(self, letter: str, terms: RedriveTerms = AS_IT_IS) -> Any:
        return Redrive(self.letters, Settings()).run(Selection(ids=(letter,)), terms, by="test")

    def detail(self, letter: str) -> LetterDetail:
        found = self.letters.get(letter)
        assert found is not None
        return found


def first(site: Site, later: Callable[..., Any] | None = None) -> LetterFirst:
    return LetterFirst(site.app, later or (lambda *_: pytest.fail("Redis answers")))


@pytest.fixture
def site(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(posting, "EVERY_S", 0.02)
    made = Site(redis_url)
    with made.app.connection_for_read() as connection, connection.channel() as channel:
        made.app.amqp.queues[QUEUE](channel).declare()
        channel.queue_purge(QUEUE)
    yield made
    made.client.close()
    made.app.close()


class TestWorker:
    def test_failures_policies_and_redrives(self, site: Site) -> None:
        with site.worker():
            once, retried, given_up = site.send(1), site.send(2, "film.retried"), site.send(9, "film.retried")
            until(lambda: site.letters.count() == 2, "two are dead")
            assert retried.get(timeout=30) == 0
            found = {letter.task_id: site.detail(letter.id) for letter in site.letters.walk()}
            assert {key: (one.reason, one.attempts, one.queue) for key, one in found.items()} == {
                once.id: ("failed", 1, QUEUE),
                given_up.id: ("failed", 3, QUEUE),
            }
            assert [one.message for one in found[given_up.id].history] == ["run 1", "run 2", "run 3"]

            done = site.redrive(found[once.id].id)
            assert (done.sent, done.to_publish) == (1, 1)
            until(lambda: site.app.AsyncResult(once.id).state == "SUCCESS", "it runs again")
            until(lambda: site.detail(found[once.id].id).state is LetterState.REDRIVEN, "it is remembered")
        assert site.depth() == 0
        assert site.ran == {once.id: 2, retried.id: 3, given_up.id: 3}

    def test_what_it_does_not_run(self, site: Site) -> None:
        left = site.send(0)
        # As a crash between the letter and the ack.
        with site.taken() as message:
            first(site).leave(message, ENDING)
        assert site.depth() == 1
        site.app.send_task("film.nowhere", queue=QUEUE, task_id="unknown")
        with site.app.connection_for_write() as connection, connection.channel() as channel:
            for body, headers in ((b"{no json", {"task": "film.plain", "id": "broken"}), (b'{"x": 1}', {})):
                message = channel.prepare_message(body, 5, "application/json", "utf-8", headers, {})
                channel.basic_publish(message, exchange="", routing_key=QUEUE)
        with site.worker():
            assert site.send(0).get(timeout=30) == 0
            until(lambda: site.letters.count() == 4, "they are parked")
        assert left.id not in site.ran
        assert {letter.task_id: letter.reason for letter in site.letters.walk()} == {
            left.id: "failed",
            "unknown": "unknown_task",
            "broken": "undecodable",
            None: "bad_message",
        }
        assert site.depth() == 0


class TestLetterFirst:
    def test_one_attempt_leaves_one_letter(self, site: Site) -> None:
        site.send()
        for _ in range(3):
            with site.taken() as message:
                first(site).leave(message, ENDING)
        assert site.letters.count() == 1
        # Also where it was discarded meanwhile.
        Discard(site.letters).run(Selection(all=True), by="test", why="test")
        with site.taken() as message:
            assert first(site).has_left(message)
            first(site).leave(message, ENDING)
        assert site.letters.count() == 0

    def test_a_new_message_with_an_old_task_id_has_a_letter_of_its_own(self, site: Site) -> None:
        for _ in range(2):
            site.send(task_id="same")
            letter = site.leave()
            Discard(site.letters).run(Selection(ids=(letter,)), by="test", why="test")

    def test_without_redis_the_message_waits_unacknowledged(self, tmp_path: Path) -> None:
        server = EmbeddedRedis(tmp_path)
        server.start()
        site, due = Site(server.url), list[tuple[float, Any]]()
        site.app.send_task("film.plain", queue=QUEUE, task_id="kept", ignore_result=True)
        try:
            with site.taken() as message:
                server.stop()
                first(site, lambda seconds, again: due.append((seconds, again))).leave(message, ENDING)
                message.ack_log_error(None, ())
                assert not message.acknowledged
                assert [seconds for seconds, _ in due] == [RETRY_S]
                due.pop()[1]()
                assert not message.acknowledged
                server.start()
                # It may have another port.
                site.client = redis.Redis.from_url(server.url)
                site.letters = Letters(site.client, Keys())
                ((_, again),) = due
                again.__self__._first.client = site.client
                again()
                assert message.acknowledged
            assert [letter.task_id for letter in site.letters.walk()] == ["kept"]
            assert site.depth() == 0
        finally:
            server.stop()


class TestOutbox:
    def test_edits_and_priorities_are_those_of_the_broker(self, site: Site) -> None:
        site.send(priority=3)
        letter = site.leave()
        assert site.detail(letter).priority == 3
        site.redrive(letter, RedriveTerms(priority=8))
        assert (site.detail(letter).priority, site.detail(letter).state) == (8, LetterState.SCHEDULED)

        assert site.outbox().send_due().sent == 1
        with site.taken() as message:
            assert message.properties["priority"] == 8
            assert message.headers["celeray_priority"] == 8
            assert message.headers["celeray_tag"].startswith("redriven-")
            message.ack()

    def test_several_publish_each_once(self, site: Site) -> None:
        for _ in range(120):
            site.send()
        with site.app.connection_for_read() as connection, connection.channel() as channel:
            while (message := channel.basic_get(QUEUE)) is not None:
                first(site).leave(message, ENDING)
                message.ack()
        Redrive(site.letters, Settings()).run(Selection(all=True), AS_IT_IS, by="test")
        sent: list[int] = []
        threads = [
            threading.Thread(target=lambda: sent.append(site.outbox().send_due().sent)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(sent) == site.depth() == 120

    def test_a_broker_that_does_not_answer_is_tried_again(self, site: Site, redis_url: str) -> None:
        site.send()
        letter = site.leave()
        site.redrive(letter)
        away = Site(redis_url, "amqp://127.0.0.1:1//")
        now = site.detail(letter).due_at
        assert now is not None
        assert away.outbox().send_due().sent == 0
        assert site.outbox().send_due(now).sent == 0
        assert site.outbox().send_due(now + AGAIN_S + 5).sent == 1

    def test_a_claim_that_nobody_closed_ends(self, site: Site) -> None:
        site.send()
        letter = site.leave()
        site.redrive(letter)
        crashed = site.outbox()
        assert len(crashed._claim(None)) == 1
        now = site.detail(letter).due_at
        assert now is not None
        assert site.outbox().send_due(now + CLAIM_S - 5).sent == 0
        assert site.outbox().send_due(now + CLAIM_S + 5).sent == 1

    def test_two_copies_have_one_tag_and_leave_one_letter(self, site: Site) -> None:
        site.send()
        letter = site.leave()
        site.redrive(letter)
        outbox = site.outbox()
        ((name, record),) = outbox._claim(None)
        for _ in range(2):
            assert outbox._publish(name, record) == ("redriven", "")
        Discard(site.letters).run(Selection(ids=(letter,)), by="test", why="test")
        assert site.depth() == 2
        for _ in range(2):
            site.leave()
        assert site.depth() == 0

    def test_what_was_discarded_or_edited_meanwhile_is_let_be(self, site: Site) -> None:
        site.send()
        letter = site.leave()
        site.redrive(letter)
        outbox = site.outbox()
        ((name, record),) = outbox._claim(None)
        site.redrive(letter, RedriveTerms(priority=9))
        assert outbox._send(name, record) == "gone"
        assert site.detail(letter).priority == 9
        assert site.detail(letter).state is LetterState.SCHEDULED

    def test_nobody_without_the_app_looks_at_them(self, site: Site) -> None:
        site.send()
        site.redrive(site.leave())
        assert send_due(site.client, Keys(), dedup_hold_max_s=60) == SentDue()
        assert site.letters.count_scheduled() == 1

    def test_what_can_not_be_published_is_parked_with_the_reason(self, site: Site) -> None:
        site.send()
        letter = site.leave()
        site.redrive(letter)
        raw = site.client.hget("celeray:scheduled", letter)
        # What nobody writes, and yet is not tried for ever.
        site.client.hset("celeray:scheduled", letter, raw.replace(b'"headers"', b'"headerz"'))
        assert site.outbox().send_due().parked == 1
        assert site.detail(letter).state is LetterState.PARKED
        assert "can't be published: headers: missing" in site.detail(letter).detail
