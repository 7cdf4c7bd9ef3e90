"""Whatever submitters and workers do, in any order: one live submission a key, and a held key has a live message."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import celeray
from celeray.scheduler.keys import Keys
from celeray.scheduler.settings import Settings
from celeray.scheduler.submission.packing import Packed
from celeray.scheduler.submission.terms import AGAIN, Terms
from celeray.scheduler.submission.writing import Item, Submission, write
from celeray.scheduler.transport.claiming import Claim, read_reply
from celeray.scheduler.transport.leases import FRONT, LeaseBook
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.restoring import restore_expired
from celeray.scheduler.transport.scripts import script
from tests.integration.scheduler.submission.conftest import DEFAULT, WAITING, Look

KEYS = st.integers(0, 2)
PERIOD_MS = 3_600_000
POISON_AFTER = 1


class Live:
    """A message that is in a queue or held."""

    def __init__(self, key: int, task_id: str, retries: int = 0) -> None:
        self.key, self.task_id, self.retries = key, task_id, retries
        self.lease: Any = None
        self.begun = 0


class Deduplication(RuleBasedStateMachine):
    """The model: live messages in the order of their queue, and who has which key."""

    look: Look
    app: Any

    def __init__(self) -> None:
        super().__init__()
        self.look.client.flushdb()
        self.keys = Keys()
        self.options = LeaseOptions(poison_after=POISON_AFTER)
        self.book = LeaseBook(self.look.client.connection_pool, self.keys, self.options)
        self.queue: list[Live] = []
        self.held: list[Live] = []
        self.holders: dict[int, str] = {}
        self.periods: set[int] = set()
        """Keys whose holder also has them for a period."""

    def _call(self, key: int, both: bool, task_id: str | None = None) -> str:
        wanted = {"key": str(key), **({"for_s": PERIOD_MS / 1000, "until": "both"} if both else {})}
        call = self.app.tasks["film.render"].apply_async(headers={"deduplicate": wanted}, task_id=task_id)
        return str(call.id)

    @rule(key=KEYS, both=st.booleans())
    def submit(self, key: int, both: bool) -> None:
        task_id = self._call(key, both)
        if key in self.holders:
            assert task_id == self.holders[key]
            return
        self.holders[key] = task_id
        if both:
            self.periods.add(key)
        self.queue.append(Live(key, task_id))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def repeat_a_publish(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.holders)))
        assert self._call(key, False, self.holders[key]) == self.holders[key]

    @precondition(lambda self: self.queue)
    @rule(most=st.integers(1, 2), begins=st.booleans())
    def claim(self, most: int, begins: bool) -> None:
        claim = Claim((DEFAULT,), (WAITING,), most)
        reply = script("claim")(self.look.client, claim.keys(self.book), claim.arguments(self.book))
        leases = [payload.lease for payload, _ in read_reply(reply, claim, self.book).messages]
        for lease in leases:
            live = self.queue.pop(0)
            live.lease = lease
            self.held.append(live)
            if begins:
                live.begun += 1
                self.book.note_begun(lease.delivery_tag)
        self.book.flush()

    def _draw(self, data: Any) -> Live:
        live: Live = data.draw(st.sampled_from(self.held))
        self.held.remove(live)
        return live

    def _gone(self, live: Live) -> None:
        if any(other.key == live.key and other.task_id == live.task_id for other in self.queue + self.held):
            return
        if self.holders.get(live.key) == live.task_id and live.key not in self.periods:
            del self.holders[live.key]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        live = self._draw(data)
        self.book.note_ack(live.lease.delivery_tag)
        self.book.flush()
        self._gone(live)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), twice=st.booleans())
    def retry(self, data: Any, twice: bool) -> None:
        """As a worker: the new message first, then the ack of the old one."""
        live = self._draw(data)
        digest = live.lease.hold.partition(":")[0]
        token = f"{live.task_id}:{live.retries + 1}:0"
        terms = Terms("film.render", live.task_id, token, AGAIN, digest, True)
        payload = self._message(terms)
        submission = Submission(lambda keys: keys.published(token), 600)
        with self.app.connection_for_write() as connection:
            for _ in range(1 + twice):
                write(
                    connection.default_channel,
                    [Item(Packed(payload, (WAITING,)), terms)],
                    submission,
                    Settings(),
                )
        self.queue.append(Live(live.key, live.task_id, live.retries + 1))
        self.book.note_ack(live.lease.delivery_tag)
        self.book.flush()
        self._gone(live)

    def _message(self, terms: Terms) -> bytes:
        return json.dumps(
            {
                "body": "",
                "headers": {"id": terms.task_id, "task": terms.task, "celeray_hold": terms.hold},
                "properties": {
                    "delivery_tag": uuid.uuid4().hex,
                    "delivery_info": {"exchange": "", "routing_key": DEFAULT},
                    "priority": 5,
                },
            }
        ).encode()

    def _back(self, live: Live) -> None:
        if live.begun >= POISON_AFTER:
            self._gone(live)
        else:
            live.lease = None
            self.queue.insert(0, live)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        live = self._draw(data)
        self.book.give_back([live.lease], push=FRONT)
        self._back(live)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def park(self, data: Any) -> None:
        live = self._draw(data)
        self.book.park(live.lease, "unreadable", "a test says so")
        self._gone(live)

    @precondition(lambda self: self.held)
    @rule()
    def the_worker_dies(self) -> None:
        for key in self.keys.lease_book()[1::2][:2]:
            for live in self.held:
                self.look.client.zincrby(key, -1000, live.lease.tag)
        run_id = self.look.client.info("server")["run_id"]
        self.look.client.hset(self.keys.restore_marker(), mapping={"run_id": run_id, "since": 1})
        restore_expired(
            self.look.client,
            self.keys,
            self.options,
            visibility_timeout_s=3600,
            priority_steps=list(range(10)),
        )
        self.book = LeaseBook(self.look.client.connection_pool, self.keys, self.options)
        lost, self.held = sorted(self.held, key=lambda live: -live.lease.fence), []
        for live in lost:
            self._back(live)

    @precondition(lambda self: self.periods)
    @rule(data=st.data())
    def a_period_ends(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.periods)))
        [record] = [name for name in self._records() if self._records()[name] == self.holders[key]]
        # As if the clock had gone on: an ended task's key is gone, one that runs has lost its period.
        self.periods.discard(key)
        if any(live.task_id == self.holders[key] for live in self.queue + self.held):
            self.look.client.hset(record, "until", 1)
        else:
            self.look.client.delete(record)
            del self.holders[key]

    def _records(self) -> dict[str, str]:
        return {name: self.look.client.hget(name, "id").decode() for name in self.look.held_keys()}

    @invariant()
    def keys_are_as_the_model(self) -> None:
        assert sorted(self._records().values()) == sorted(self.holders.values())

    @invariant()
    def one_live_submission_a_key(self) -> None:
        assert self.look.ids() == [live.task_id for live in self.queue]
        assert self.look.client.hlen("unacked") == len(self.held)
        for key in range(3):
            ids = {live.task_id for live in self.queue + self.held if live.key == key}
            assert ids <= {self.holders.get(key)}
            assert ids or key not in self.holders or key in self.periods


@pytest.mark.timeout(170)
def test_one_live_submission_a_key(redis_url: str) -> None:
    app = Celery("film", broker=redis_url, set_as_current=False)
    celeray.install(app, Settings())
    app.conf.task_send_sent_event = False

    @app.task(shared=False, name="film.render", ignore_result=True)
    def render() -> None: ...

    Deduplication.app, Deduplication.look = app, Look(redis_url)
    run_state_machine_as_test(
        Deduplication,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    Deduplication.look.client.close()
    app.close()
