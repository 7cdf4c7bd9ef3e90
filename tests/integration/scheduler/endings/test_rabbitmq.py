"""Dead letters and retry policies on a real RabbitMQ; skipped where there is none (see docs/operations.md)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from celery import chord
from kombu import Connection, Exchange, Producer

from celeray.scheduler.embedded_redis import EmbeddedRedis
from celeray.scheduler.endings.letter_first import LetterFirst
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.discard import Discard
from celeray.scheduler.letters.foreign import outgoing_of
from celeray.scheduler.letters.producing import Producer as LetterProducer
from celeray.scheduler.letters.record import LetterDetail, LetterState, unpacked
from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.settings import Settings
from celeray.scheduler.transport.ending import Ending
from tests.integration import refused_kinds
from tests.integration.bridge.live import ROOT, until
from tests.integration.scheduler.endings.amqp_site import AmqpSite, AmqpWorker
from tests.integration.scheduler.endings.conftest import MODULE, QUEUE
from tests.rabbitmq import VARIABLE, RabbitServer, scripts

pytestmark = [
    pytest.mark.integration,
    pytest.mark.unmeasured,
    pytest.mark.slow,
    pytest.mark.skipif(
        scripts() is None, reason=f"no RabbitMQ: apt-get install rabbitmq-server, or {VARIABLE}"
    ),
]
HELD_QUEUE = "cpu.thumbnail"
"""The worker of the module does not consume it."""
ENDING = Ending("failed", "why", b"", 1, "ValueError", None)


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    found = scripts()
    assert found is not None
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"), found)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def backend(redis_server: EmbeddedRedis) -> str:
    url = f"redis://127.0.0.1:{redis_server.port}/9"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
def worker(
    rabbit: RabbitServer, backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AmqpWorker]:
    made = AmqpWorker(rabbit.url, backend, tmp_path_factory.mktemp("amqp"), "-P", "prefork", "-c", "2")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def site(rabbit: RabbitServer, backend: str) -> Iterator[AmqpSite]:
    made = AmqpSite(rabbit.url, backend)
    yield made
    made.client.flushdb()
    made.close()


@pytest.fixture
def quiet(rabbit: RabbitServer, redis_server: EmbeddedRedis) -> Iterator[AmqpSite]:
    """Where no worker publishes what is due."""
    made = AmqpSite(rabbit.url, f"redis://127.0.0.1:{redis_server.port}/10")
    made.client.flushdb()
    yield made
    made.purge(HELD_QUEUE)
    made.close()


def first_of(site: AmqpSite) -> LetterFirst:
    return LetterFirst(site.app, lambda *_: pytest.fail("Redis answers"))


def body_of(letter: LetterDetail) -> bytes:
    document = json.loads(base64.b64decode(letter.message_base64))
    return base64.b64decode(document["body"])


def publish_raw(site: AmqpSite, queue: str, body: bytes, **properties: Any) -> None:
    site.ready(queue)
    with Connection(site.broker) as connection, connection.channel() as channel:
        Producer(channel).publish(body, exchange=Exchange(""), routing_key=queue, **properties)


class TestFailures:
    def test_a_failed_task_leaves_its_letter_and_its_message_is_gone(
        self, site: AmqpSite, worker: AmqpWorker
    ) -> None:
        result = site.send("fails", "once", priority=8)
        letter = site.letter(result.id)

        assert (letter.reason, letter.attempts, letter.exception) == ("failed", 1, "ValueError")
        assert (letter.queue, letter.priority, letter.task) == (QUEUE, 8, "ends.fails")
        assert letter.history[0].worker == worker.node
        assert msgpack.unpackb(body_of(letter))[0] == ["once"]
        assert result.state == "FAILURE"
        assert site.ready() == 0

    def test_a_policy_retries_until_it_succeeds(self, site: AmqpSite, worker: AmqpWorker) -> None:
        result = site.send("recovers_retried", 2)

        assert site.value(result) == 0
        assert int(site.client.get(f"ran:{result.id}")) == 3
        until(lambda: site.letters.count_scheduled() == 0, "nothing waits")
        assert site.letters.count() == 0

    def test_a_policy_that_gives_up_leaves_all_attempts(self, site: AmqpSite, worker: AmqpWorker) -> None:
        result = site.send("fails_retried", "thrice")
        letter = site.letter(result.id)

        assert [(one.number, one.message) for one in letter.history] == [(n, "thrice") for n in (1, 2, 3)]
        assert letter.retried == 2
        assert letter.id.endswith(".2")

    def test_what_waits_is_seen_with_its_time(self, site: AmqpSite, worker: AmqpWorker) -> None:
        result = site.send("patient", 1)
        letter = site.letter(result.id, LetterState.SCHEDULED)

        assert letter.due_at - letter.parked_at == pytest.approx(3600, abs=1)
        assert site.outbox().send_due().sent == 0
        assert site.outbox().send_due(letter.due_at + 1).sent == 1
        assert site.value(result) == 0

    def test_a_dead_process_is_retried_by_its_policy(self, site: AmqpSite, worker: AmqpWorker) -> None:
        result = site.send("dies_retried")

        assert site.letter(result.id).reason == "worker_lost"
        assert site.letter(result.id).attempts == 3

    def test_acknowledged_early(self, site: AmqpSite, worker: AmqpWorker) -> None:
        letter = site.letter(site.send("fails_early_retried", "early").id)

        assert letter.attempts == 3


@pytest.mark.parametrize("kind", list(refused_kinds.KINDS))
def test_what_no_worker_can_run(site: AmqpSite, worker: AmqpWorker, kind: str) -> None:
    reason, changes = refused_kinds.KINDS[kind]
    task_id = str(uuid.uuid4())
    envelope: dict[str, Any] = {
        "body": "W1tdLCB7fSwge31d",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "ends.well", "id": task_id, "note": []},
    }
    for change in changes:
        change(envelope)
    body = base64.b64decode(envelope["body"])
    site.ready()
    with Connection(site.broker) as connection, connection.channel() as channel:
        message = channel.prepare_message(
            body,
            5,
            envelope["content-type"],
            envelope["content-encoding"],
            envelope["headers"],
            {"delivery_mode": 2},
        )
        channel.basic_publish_confirm(message, exchange="", routing_key=QUEUE)
    found = until(lambda: list(site.letters.walk()), "it is parked")

    assert [one.reason for one in found] == [reason]
    kept = site.letters.get(found[0].id)
    assert kept is not None
    assert (kept.headers, body_of(kept)) == (envelope["headers"], body)
    assert site.ready() == 0


class TestCrash:
    def test_between_letter_and_ack_the_letter_stays_one(self, quiet: AmqpSite) -> None:
        result = quiet.send("fails", "x", queue=HELD_QUEUE)
        for redelivered in (False, True):
            with quiet.taken(HELD_QUEUE) as message:
                assert bool(message.delivery_info["redelivered"]) is redelivered
                assert first_of(quiet).has_left(message) is redelivered
                first_of(quiet).leave(message, ENDING)
        assert quiet.letter(result.id).reason == "failed"

    def test_a_worker_runs_nothing_whose_letter_is_written(
        self, quiet: AmqpSite, rabbit: RabbitServer, tmp_path: Path
    ) -> None:
        left, new = quiet.send("recovers_retried", 0, queue=HELD_QUEUE), None
        with quiet.taken(HELD_QUEUE) as message:
            first_of(quiet).leave(message, ENDING)
        new = quiet.send("recovers_retried", 0, queue=HELD_QUEUE)
        made = AmqpWorker(rabbit.url, quiet.backend, tmp_path, "-P", "solo", "-Q", HELD_QUEUE, name="second")
        made.start()
        try:
            assert quiet.value(new) == 0
        finally:
            made.stop()
        assert quiet.client.get(f"ran:{left.id}") is None
        assert quiet.ready(HELD_QUEUE) == 0
        assert quiet.letter(left.id).reason == "failed"

    def test_a_task_id_that_is_used_again_has_letters_again(self, quiet: AmqpSite) -> None:
        for _ in range(2):
            quiet.send("fails", "x", queue=HELD_QUEUE, task_id="same")
            with quiet.taken(HELD_QUEUE) as message:
                first_of(quiet).leave(message, ENDING)
                message.ack()
            letter = quiet.letter("same")
            Discard(quiet.letters).run(Selection(ids=(letter.id,)), by="test", why="test")


class TestRedrive:
    def test_the_message_is_the_same_on_the_wire(self, quiet: AmqpSite) -> None:
        headers = {
            "id": str(uuid.uuid4()),
            "task": "ends.fails",
            "when": datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None),
            "price": Decimal("1.25"),
            "deep": {"list": [1, "two", None, True], "large": 2**40},
            "celeray_priority": 9,
        }
        body = b'["\\u00e4", {"x": 1}, {}] \xc3\xa4'
        sent = {
            "headers": headers,
            "priority": 9,
            "correlation_id": headers["id"],
            "reply_to": "somebody",
            "message_id": "m-1",
            "type": "kind",
            "app_id": "film",
            "delivery_mode": 2,
            "content_type": "application/json",
            "content_encoding": "utf-8",
        }
        publish_raw(quiet, HELD_QUEUE, body, **sent)
        with quiet.taken(HELD_QUEUE) as message:
            before = (message.body, dict(message.headers), dict(message.properties))
            first_of(quiet).leave(message, ENDING)
            message.ack()
        letter = quiet.letter(headers["id"])
        done = Redrive(quiet.letters, Settings()).run(Selection(ids=(letter.id,)), RedriveTerms(), by="test")
        assert (done.sent, done.to_publish) == (1, 1)
        assert quiet.ready(HELD_QUEUE) == 0
        due = quiet.letters.get(letter.id)
        assert due is not None
        assert due.state is LetterState.SCHEDULED

        assert quiet.outbox().send_due().sent == 1
        with quiet.taken(HELD_QUEUE) as again:
            tag = again.headers.pop("celeray_tag")
            properties = dict(again.properties)
            properties["application_headers"].pop("celeray_tag", None)
            assert (again.body, again.headers, properties) == before
            assert tag.startswith("redriven-")
            again.ack()
        past = quiet.letters.get(letter.id)
        assert past is not None
        assert past.state is LetterState.REDRIVEN

    def test_a_worker_publishes_it(self, site: AmqpSite, worker: AmqpWorker) -> None:
        result = site.send("recovers_failing", 1)
        letter = site.letter(result.id)
        Redrive(site.letters, Settings()).run(
            Selection(ids=(letter.id,)), RedriveTerms(priority=10), by="test"
        )

        until(lambda: site.app.AsyncResult(result.id).state == "SUCCESS", "it runs again")
        assert site.letters.count() == site.letters.count_scheduled() == 0

    def test_twice_published_leaves_one_letter(self, site: AmqpSite, worker: AmqpWorker) -> None:
        letter = site.letter(site.send("fails", "x").id)
        Redrive(site.letters, Settings()).run(Selection(ids=(letter.id,)), RedriveTerms(), by="test")
        record = site.client.hget("celeray:scheduled", letter.id)
        crashed = LetterProducer(site.app)
        # What a crash between the confirmation and the removal leaves; the worker publishes it as well.
        crashed.publish(outgoing_of(letter.id, unpacked(letter.id.encode(), record), Keys()))
        crashed.close()
        assert site.letter(letter.task_id).id.startswith("redriven-")
        until(lambda: site.letters.count_scheduled() == 0 and site.ready() == 0, "both have run")
        assert len(list(site.letters.walk())) == 1

    def test_to_a_queue_that_is_not_there(self, quiet: AmqpSite) -> None:
        quiet.send("fails", "x", queue=HELD_QUEUE, task_id="lost")
        with quiet.taken(HELD_QUEUE) as message:
            first_of(quiet).leave(message, ENDING)
            message.ack()
        nowhere = Settings(queues=(*Settings().queues, "nowhere"))
        for queue, state in (("nowhere", LetterState.PARKED), ("io.storage", LetterState.REDRIVEN)):
            letter = quiet.letter("lost")
            Redrive(quiet.letters, nowhere).run(
                Selection(ids=(letter.id,)), RedriveTerms(queue=queue), by="test"
            )
            quiet.outbox().send_due()
            found = quiet.letters.get(letter.id)
            assert found is not None
            assert found.state is state
            if state is LetterState.PARKED:
                assert "queue 'nowhere': no such queue on the broker" in found.detail
        assert quiet.ready("io.storage") == 1
        quiet.purge("io.storage")

    def test_the_keeper_publishes_with_the_app_only(self, quiet: AmqpSite) -> None:
        quiet.send("fails", "x", queue=HELD_QUEUE, task_id="kept")
        with quiet.taken(HELD_QUEUE) as message:
            first_of(quiet).leave(message, ENDING)
            message.ack()
        letter = quiet.letter("kept")
        Redrive(quiet.letters, Settings()).run(Selection(ids=(letter.id,)), RedriveTerms(), by="test")
        for which, said in (
            (("--redis-url", quiet.backend), "due-retries: nothing"),
            (("-A", MODULE), "1 tasks sent again"),
        ):
            assert said in celeray_command(quiet, "keeper", *which, "--once")
        assert quiet.ready(HELD_QUEUE) == 1

    def test_the_command_publishes_with_the_app(self, quiet: AmqpSite) -> None:
        quiet.send("fails", "x", queue=HELD_QUEUE, task_id="told")
        with quiet.taken(HELD_QUEUE) as message:
            first_of(quiet).leave(message, ENDING)
            message.ack()
        letter = quiet.letter("told")
        said = celeray_command(quiet, "dead-letters", "redrive", "-A", MODULE, letter.id)
        assert "1 of 1 sent again" in said
        assert quiet.ready(HELD_QUEUE) == 1

    def test_a_dead_member_opens_its_chord(self, site: AmqpSite, worker: AmqpWorker) -> None:
        members = [
            site.app.signature(f"ends.{name}", args, queue=QUEUE)
            for name, args in (("sleeps", (0,)), ("recovers_failing", (1,)))
        ]
        body = site.app.signature("ends.gather", queue=QUEUE)
        result = chord(members, app=site.app)(body)
        letter = until(lambda: list(site.letters.walk()), "its member is dead")[0]
        until(lambda: result.state == "FAILURE", "the body is told")
        Redrive(site.letters, Settings()).run(Selection(ids=(letter.id,)), RedriveTerms(), by="test")

        until(lambda: site.app.AsyncResult(result.id).state == "SUCCESS", "the body ran")
        assert site.app.AsyncResult(result.id).result == [0, 0]


def celeray_command(site: AmqpSite, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celeray.cli", *args],
        cwd=ROOT,
        env={
            **os.environ,
            "CELERY_BROKER_URL": site.broker,
            "CELERY_RESULT_BACKEND": site.backend,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
