"""Whatever workers and keepers do, in whatever order: each message is in one place, and it is one message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from celeray.scheduler.keepers import server_time
from celeray.scheduler.keys import Keys
from celeray.scheduler.revoking import RevokeBook
from celeray.scheduler.transport.scheduling import FarEta, Verdict, bring_back, schedule
from tests.integration.scheduler.transport.conftest import Broker, Side
from tests.integration.scheduler.transport.test_settling import expire

OWNERS = st.integers(0, 1)
TASKS = st.sampled_from(["a", "ab", "b"])


class Schedule(RuleBasedStateMachine):
    """The model: where each message is, by its tag."""

    url: str
    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker(self.url)
        self.broker.client.flushdb()
        self.keys = Keys()
        self.sides = [Side(self.url) for _ in range(2)]
        self.listed: dict[str, str] = {}
        self.held: dict[str, Any] = {}
        self.scheduled: dict[str, tuple[str, bool]] = {}
        """Task id, and whether it is due."""
        self.revoked: set[str] = set()

    def teardown(self) -> None:
        for side in self.sides:
            side.connection.close()
        self.broker.client.close()

    @rule(owner=OWNERS, task=TASKS)
    def publish(self, owner: int, task: str) -> None:
        self.sides[owner].publish("x", id=task)
        tag = self.broker.bodies()[-1]["properties"]["delivery_tag"]
        self.listed[tag] = task

    @rule(target=taken, owner=OWNERS)
    def take(self, owner: int) -> Any:
        message = self.sides[owner].get()
        assert (message is None) == (not self.listed)
        if message is not None:
            tag = message.properties["delivery_tag"]
            self.held[tag] = (message, self.listed.pop(tag), owner)
            lease = self.sides[owner].channel.leases.get(message.delivery_tag)
            return tag, message, lease, owner
        return None

    def _valid(self, taken: Any) -> bool:
        return self.held.get(taken[0], (None,))[0] is taken[1]

    @rule(taken=taken, due=st.booleans())
    def put_away(self, taken: Any, due: bool) -> None:
        if taken is None:
            return
        tag, message, lease, owner = taken
        task = message.headers["id"]
        item = FarEta(lease, -1.0 if due else 100.0, task, "{}")
        [verdict] = schedule(self.sides[owner].channel.leases, [item])
        if not self._valid(taken):
            assert verdict is Verdict.GONE
        elif task in self.revoked:
            assert verdict is Verdict.REVOKED
        else:
            assert verdict is Verdict.SCHEDULED
            del self.held[tag]
            self.scheduled[tag] = task, due

    @rule(taken=taken)
    def ack(self, taken: Any) -> None:
        if taken is not None:
            self.sides[taken[3]].channel.leases.note_ack(taken[1].delivery_tag)
            self.sides[taken[3]].channel.leases.flush()
            if self._valid(taken):
                del self.held[taken[0]]

    @rule(task=TASKS)
    def revoke(self, task: str) -> None:
        of_task = [tag for tag, (name, _) in self.scheduled.items() if name == task]
        assert RevokeBook(self.broker.client, self.keys).add([task]) == len(of_task)
        self.revoked.add(task)
        self.scheduled |= dict.fromkeys(of_task, (task, True))

    @rule(later=st.booleans())
    def keepers_bring_back(self, later: bool) -> None:
        now = server_time(self.broker.client) + 200 if later else None
        due = [tag for tag, (_, is_due) in self.scheduled.items() if is_due or later]
        assert bring_back(self.broker.client, self.keys, now) == len(due)
        assert bring_back(self.broker.client, self.keys, now) == 0
        for tag in due:
            self.listed[tag] = self.scheduled.pop(tag)[0]

    @rule(owner=OWNERS)
    def all_leases_end(self, owner: int) -> None:
        expire(self.broker)
        assert self.sides[owner].channel.restore_expired().restored == len(self.held)
        for tag, (_, task, _) in self.held.items():
            self.listed[tag] = task
        self.held.clear()

    @invariant()
    def redis_is_as_the_model(self) -> None:
        client = self.broker.client
        listed = [item["properties"]["delivery_tag"] for item in self.broker.bodies()]
        assert sorted(listed) == sorted(self.listed)
        assert {tag.decode() for tag in client.hkeys("unacked")} == set(self.held)
        due, entries, messages, ids, lists = self.keys.schedule()
        names = {name.decode() for name in client.zrange(due, 0, -1)}
        assert {name.partition(":")[2] for name in names} == set(self.scheduled)
        assert {name.decode() for name in client.hkeys(entries)} == names
        assert {name.decode() for name in client.hkeys(messages)} == names
        kept = [json.loads(message)["properties"]["delivery_tag"] for message in client.hvals(messages)]
        assert sorted(kept) == sorted(self.scheduled)
        assert {name.decode().partition("\0")[2] for name in client.zrange(ids, 0, -1)} == names
        assert sum(int(count) for count in client.hvals(lists)) == len(names)


@pytest.mark.timeout(170)
@pytest.mark.usefixtures("no_lease_threads")
def test_each_message_is_in_exactly_one_place(redis_url: str) -> None:
    Schedule.url = redis_url
    run_state_machine_as_test(
        Schedule,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
