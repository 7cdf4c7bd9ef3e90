"""Limited, paused, claimed, given back: nothing is lost or doubled, and a class keeps its order in a list."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from celeray.scheduler.keys import Keys
from celeray.scheduler.message_class import HEADER
from celeray.scheduler.transport.claiming import SKIPPED_MOST, Choice, Claim, Limit, read_reply
from celeray.scheduler.transport.lease import Lease
from celeray.scheduler.transport.leases import LeaseBook
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.scripts import script

QUEUES = ("q", "r")
LEVELS = (0, 5)
LISTS = tuple(f"{queue}\x06\x16{step}" if step else queue for step in LEVELS for queue in QUEUES)
CLASSES = ("a", "b", "c")
LIMITS = st.dictionaries(st.sampled_from(CLASSES), st.builds(Limit, st.integers(0, 2), st.integers(0, 2)))
CHOICES = st.builds(Choice, st.integers(0, 2), st.integers(0, 2), LIMITS)


class Choosing(RuleBasedStateMachine):
    """The model: a list a key with the next message first, each a pair of tag and class."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.keys = Keys()
        self.book = LeaseBook(self.client.connection_pool, self.keys, LeaseOptions())
        self.lists: dict[str, list[tuple[str, str]]] = {key: [] for key in LISTS}
        self.held: dict[str, tuple[Lease, str, str]] = {}
        """Lease, list and class by tag."""
        self.paused: set[str] = set()
        self.published = 0

    @rule(
        key=st.sampled_from(LISTS),
        of=st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4),
        header=st.booleans(),
    )
    def publish(self, key: str, of: list[str], header: bool) -> None:
        for name in of:
            self.published += 1
            tag = f"{self.published:06}-{uuid.uuid4().hex}"
            message = {
                "body": "",
                "headers": {HEADER: name, "task": "other"} if header else {"task": name},
                "properties": {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": key[0]}},
            }
            self.client.lpush(key, json.dumps(message))
            self.lists[key].append((tag, name))

    @rule(queue=st.sampled_from(QUEUES))
    def pause_or_resume(self, queue: str) -> None:
        if queue in self.paused:
            self.client.hdel(self.keys.paused(), queue)
        else:
            self.client.hset(self.keys.paused(), queue, "{}")
        self.paused ^= {queue}

    def expected(self, most: int, choice: Choice, depth: int) -> list[tuple[str, str, str]]:
        """Tag, class and list of what a claim takes: all lists of a level, then those of the next."""
        room = {name: limit.room for name, limit in choice.limits.items()}
        taken: list[tuple[str, str, str]] = []
        for key in LISTS:
            level = LISTS.index(key) // len(QUEUES)
            allowed = most + choice.over if level < choice.urgent_levels else most
            skipped = 0
            for tag, name in () if key[0] in self.paused else self.lists[key]:
                if skipped >= depth:
                    break
                limit = choice.limits.get(name)
                fits = limit is None or level < limit.level or room[name] > 0
                if len(taken) < allowed and fits:
                    taken.append((tag, name, key))
                    if limit is not None:
                        room[name] -= 1
                elif len(taken) < allowed:
                    skipped += 1
        return taken

    @rule(most=st.integers(0, 4), choice=CHOICES, depth=st.sampled_from([1, 2, SKIPPED_MOST]))
    def claim(self, most: int, choice: Choice, depth: int) -> None:
        claim = Claim(QUEUES, LISTS, most, False, choice, depth)
        found = read_reply(
            script("claim")(self.client, claim.keys(self.book), claim.arguments(self.book)), claim, self.book
        )
        expected = self.expected(most, choice, depth)
        assert [payload.lease.tag for payload, _ in found.messages] == [tag for tag, _, _ in expected]
        assert found.paused == self.paused
        for (payload, queue), (tag, name, key) in zip(found.messages, expected, strict=True):
            assert queue == key[0]
            assert payload.lease.level == LISTS.index(key) // len(QUEUES)
            self.lists[key].remove((tag, name))
            self.held[tag] = (payload.lease, key, name)

    @rule(key=st.sampled_from(LISTS), of=st.sampled_from(CLASSES), most=st.integers(1, 4))
    def give_back_the_youngest(self, key: str, of: str, most: int) -> None:
        """As the window does, of a class and list those that were taken last."""
        held = sorted(self.held.values(), key=lambda entry: entry[0].fence)
        back = [lease for lease, at, name in held if (at, name) == (key, of)][-most:]
        assert self.book.give_back(back) == len(back)
        for lease in reversed(back):
            del self.held[lease.tag]
            self.lists[key].insert(0, (lease.tag, of))

    @rule()
    def ack_the_oldest(self) -> None:
        if self.held:
            lease = min((lease for lease, _, _ in self.held.values()), key=lambda lease: lease.fence)
            self.book.note_ack(lease.delivery_tag)
            self.book.flush()
            del self.held[lease.tag]

    @invariant()
    def redis_is_as_the_model(self) -> None:
        for key, messages in self.lists.items():
            items = [json.loads(item) for item in reversed(self.client.lrange(key, 0, -1))]  # type: ignore[arg-type]
            assert [item["properties"]["delivery_tag"] for item in items] == [tag for tag, _ in messages]
            for of in CLASSES:
                order = [tag for tag, name in messages if name == of]
                assert order == sorted(order)
        unacked, _, leases, *_ = self.keys.lease_book()
        held: Any = set(self.held)
        assert {key.decode() for key in self.client.hkeys(unacked)} == held  # type: ignore[union-attr]
        assert {key.decode() for key in self.client.hkeys(leases)} == held  # type: ignore[union-attr]


@pytest.mark.timeout(170)
def test_nothing_is_lost_or_doubled_and_order_is_kept(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        Choosing.client = client
        run_state_machine_as_test(
            Choosing,
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
