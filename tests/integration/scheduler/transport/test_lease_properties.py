"""Whatever workers do, in whatever order: each message is in exactly one place, and only its owner can settle it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import send_due
from celeray.scheduler.transport.claiming import Claim, read_reply
from celeray.scheduler.transport.ending import Ending, end_leased, give_back_changed
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import BACK, FRONT, LeaseBook
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.restoring import restore_expired
from celeray.scheduler.transport.scripts import script

OWNERS = st.integers(0, 1)
LEVELS = ("q", "q\x06\x163")
POISON_AFTER = 2


class Leases(RuleBasedStateMachine):
    """The model: lists as Python lists (next one first), leases as a dictionary."""

    client: redis.Redis
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.keys = Keys()
        options = LeaseOptions(poison_after=POISON_AFTER)
        pool = self.client.connection_pool
        self.books = [LeaseBook(pool, self.keys, options) for _ in range(2)]
        self.options = options
        self.lists: list[list[str]] = [[], []]
        self.held: dict[str, tuple[Lease, int]] = {}
        self.begun: dict[str, int] = {}
        self.parked: set[str] = set()
        self.acked: set[str] = set()
        self.scheduled: dict[str, int] = {}
        """Level by tag of what is sent again when somebody looks."""

    @rule(level=st.integers(0, 1))
    def publish(self, level: int) -> None:
        tag = uuid.uuid4().hex
        message = {
            "body": "",
            "headers": {"stamps": []},
            "properties": {
                "delivery_tag": tag,
                "delivery_info": {"exchange": "", "routing_key": "q"},
                "priority": 3 * level,
            },
        }
        self.client.lpush(LEVELS[level], json.dumps(message))
        self.lists[level].append(tag)

    @rule(target=claims, owner=OWNERS, most=st.integers(1, 3))
    def claim(self, owner: int, most: int) -> Any:
        book = self.books[owner]
        claim = Claim(("q",), LEVELS, most)
        reply = script("claim")(self.client, claim.keys(book), claim.arguments(book))
        leases = [payload.lease for payload, _ in read_reply(reply, claim, book).messages]
        expected = (self.lists[0] + self.lists[1])[:most]
        assert [lease.tag for lease in leases] == expected
        for lease in leases:
            level = 0 if self.lists[0] else 1
            assert self.lists[level].pop(0) == lease.tag
            self.held[lease.tag] = (lease, level)
        return owner, leases

    def _valid(self, lease: Lease) -> bool:
        return self.held.get(lease.tag, (None, 0))[0] is lease

    def _leave(self, lease: Lease, *, front: bool) -> None:
        _, level = self.held.pop(lease.tag)
        if self.begun.get(lease.tag, 0) >= POISON_AFTER:
            self.parked.add(lease.tag)
            self.begun.pop(lease.tag)
        elif front:
            self.lists[level].insert(0, lease.tag)
        else:
            self.lists[level].append(lease.tag)
            self.begun.setdefault(lease.tag, 0)

    @rule(claimed=claims)
    def begin(self, claimed: Any) -> None:
        owner, leases = claimed
        for lease in leases:
            counts = self._valid(lease) and not lease.has_begun
            self.books[owner].note_begun(lease.delivery_tag)
            self.books[owner].flush()
            if counts:
                self.begun[lease.tag] = self.begun.get(lease.tag, 0) + 1

    @rule(claimed=claims)
    def end_unsettled(self, claimed: Any) -> None:
        owner, leases = claimed
        for lease in leases:
            self.books[owner].note_ended(lease.delivery_tag)
            self.books[owner].flush()
            if self._valid(lease):
                self.begun[lease.tag] = 0

    @rule(claimed=claims)
    def ack(self, claimed: Any) -> None:
        owner, leases = claimed
        for lease in leases:
            self.books[owner].note_ack(lease.delivery_tag)
        self.books[owner].flush()
        for lease in leases:
            if self._valid(lease):
                self.held.pop(lease.tag)
                self.begun.pop(lease.tag, None)
                self.acked.add(lease.tag)

    @rule(claimed=consumes(claims), again=st.booleans())
    def fail(self, claimed: Any, again: bool) -> None:
        owner, leases = claimed
        for lease in leases:
            lease.ending = Ending("failed", "why", b"", 1, "ValueError", 0.0 if again else None)
            if (valid := self._valid(lease)) or self.books[owner].get(lease.delivery_tag):
                end_leased(self.books[owner], lease)
            if valid:
                _, level = self.held.pop(lease.tag)
                self.begun.pop(lease.tag, None)
                if again:
                    self.scheduled[lease.tag] = level
                else:
                    self.parked.add(lease.tag)

    @rule()
    def send_what_is_due(self) -> None:
        assert send_due(self.client, self.keys, dedup_hold_max_s=60).sent == len(self.scheduled)
        for level, key in enumerate(LEVELS):
            items = self.client.lrange(key, 0, -1)[::-1]
            tags = [json.loads(item)["properties"]["delivery_tag"] for item in items]
            new = list(self.scheduled.values()).count(level)
            assert tags[new:] == self.lists[level]
            assert not set(tags[:new]) & set(self.scheduled), "each under a new tag"
            self.lists[level] = tags
        self.scheduled.clear()

    @rule(claimed=consumes(claims))
    def give_back_changed(self, claimed: Any) -> None:
        owner, leases = claimed
        for lease in [lease for lease in leases if self._valid(lease)]:
            entry = json.loads(self.client.hget(self.keys.unacked(), lease.tag) or b"")
            give_back_changed(self.books[owner], lease, json.dumps(entry[0]).encode())
            self._leave(lease, front=False)

    @rule(claimed=consumes(claims), front=st.booleans())
    def give_back(self, claimed: Any, front: bool) -> None:
        owner, leases = claimed
        valid = [lease for lease in leases if self._valid(lease)]
        back = self.books[owner].give_back(leases, push=FRONT if front else BACK)
        assert back == len(valid)
        for lease in reversed(valid) if front else valid:
            self._leave(lease, front=front)

    @rule(owner=OWNERS)
    def renew(self, owner: int) -> None:
        book = self.books[owner]
        lost = [lease.delivery_tag for lease in book.held() if not self._valid(lease)]
        assert sorted(book.renew()) == sorted(lost)

    @rule(owner=OWNERS)
    def owner_stops_and_its_leases_end(self, owner: int) -> None:
        gone = [lease for lease, _ in self.held.values() if lease.token.startswith(self.books[owner].owner)]
        for key in self.keys.lease_book()[1::2][:2]:
            for lease in gone:
                self.client.zincrby(key, -1000, lease.tag)
        run_id = self.client.info("server")["run_id"]  # type: ignore[index]
        self.client.hset(self.keys.restore_marker(), mapping={"run_id": run_id, "since": 1})
        for expected in (gone, []):
            poisoned = {lease.tag for lease in expected if self.begun.get(lease.tag, 0) >= POISON_AFTER}
            found = restore_expired(
                self.client, self.keys, self.options, visibility_timeout_s=3600, priority_steps=[0, 3]
            )
            assert (found.restored, set(found.poisoned)) == (len(expected) - len(poisoned), poisoned)
            for lease in sorted(expected, key=lambda item: item.fence, reverse=True):
                self._leave(lease, front=True)

    @invariant()
    def redis_is_as_the_model(self) -> None:
        for level, key in enumerate(LEVELS):
            items = self.client.lrange(key, 0, -1)
            assert [json.loads(item)["properties"]["delivery_tag"] for item in items][::-1] == self.lists[
                level
            ]
        unacked, index, leases, deadlines, begun, parked = self.keys.lease_book()
        held = set(self.held)
        assert {key.decode() for key in self.client.hkeys(unacked)} == held
        assert {key.decode() for key in self.client.hkeys(leases)} == held
        assert {key.decode() for key in self.client.zrange(index, 0, -1)} == held
        assert {key.decode() for key in self.client.zrange(deadlines, 0, -1)} == held
        assert {key.decode() for key in self.client.hkeys(parked)} == self.parked
        counts = {key.decode(): int(count) for key, count in self.client.hgetall(begun).items()}
        assert counts == self.begun
        records, due = self.keys.scheduled()
        assert {key.decode() for key in self.client.hkeys(records)} == set(self.scheduled)
        assert {key.decode() for key in self.client.zrange(due, 0, -1)} == set(self.scheduled)


@pytest.mark.timeout(170)
def test_each_message_is_in_exactly_one_place(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        Leases.client = client
        run_state_machine_as_test(
            Leases,
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
