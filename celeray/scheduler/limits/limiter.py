"""In every worker of an installed app: a message is handed to the pool only when it passed the gates of its limits."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import redis
from celery.worker import state

from celeray.scheduler import priorities
from celeray.scheduler.limits.gates import Gate, LimitRules, gates
from celeray.scheduler.limits.keeper import Hold, LimitKeeper
from celeray.scheduler.limits.store import LimitStore, Room, Verdict
from celeray.scheduler.receiving import priority_of

logger = logging.getLogger(__name__)

AGAIN_S = 1.0
"""While Redis does not answer, a message asks again so often. It stays held."""


class Limiter:
    """Stands before a consumer's `on_task_request`."""

    def __init__(
        self, rules: LimitRules, handle: Callable[[Any], Any], timer: Any, keeper: LimitKeeper
    ) -> None:
        """
        Args:
            timer: the consumer's.
        """
        self.keeper = keeper
        self.store: LimitStore | None = None
        """None: the consumer has not started yet."""
        self._rules = rules
        self._handle = handle
        self._timer = timer

    def start(self, store: LimitStore) -> None:
        """The consumer has a channel."""
        self.store = store
        self.keeper.start(store)

    def stop(self) -> None:
        """It has none any more; what runs still gives its room back."""
        self.keeper.stop()

    def __call__(self, request: Any) -> Any:
        passed = self.gates_of(request.task, request.args, request.kwargs, request.message.headers)
        if not passed:
            return self._handle(request)
        channel, delivery_tag = request.message.channel, request.message.delivery_tag
        lease = channel.leases.get(delivery_tag)
        if lease is None and delivery_tag in channel.qos._unclaimed:
            logger.warning(
                "Task %s[%s] came by a broadcast, which no limit holds for", request.name, request.id
            )
            return self._handle(request)
        if lease is None:
            return self._drop(request)
        try:
            verdict = self._ask(request, lease, passed)
        except (redis.RedisError, OSError) as error:
            logger.warning("Task %s[%s] asks its limits again: %r", request.name, request.id, error)
            return self._timer.call_after(AGAIN_S, self, (request,))
        if verdict is Verdict.PASSED:
            self._watch(request, lease, passed)
            return self._handle(request)
        if verdict is Verdict.WAITS:
            names = ", ".join(gate.id for gate in passed)
            logger.info("Task %s[%s] waits in Redis for its limits: %s", request.name, request.id, names)
        return self._drop(request)

    def gates_of(self, task: Any, args: Any, kwargs: Any, headers: Any) -> list[Gate]:
        """The gates of a call of a task."""
        limits = self._rules.of_task(task.name, task)
        if not limits:
            return []
        return gates(limits, self._rules.call(task.name, task, args or (), kwargs or {}, headers or {}))

    def _ask(self, request: Any, lease: Any, passed: Sequence[Gate]) -> Verdict:
        store = self.store
        assert store is not None
        level = priorities.MOST - priority_of(request)
        verdict = Verdict.LOST

        def attempt() -> bool:
            nonlocal verdict
            answer = store.acquire(lease, passed, level=level, task_id=request.id)
            self.keeper.expect(answer.due_s)
            verdict = answer.verdict
            return verdict is Verdict.WAITS

        request.message.channel.leases.hand_over(lease, attempt)
        return verdict

    def _watch(self, request: Any, lease: Any, passed: Sequence[Gate]) -> None:
        """Every way out of a run goes through one of both, unless its message is given back or its lease is lost."""
        rooms = tuple(Room(gate.id, lease.tag, lease.token) for gate in passed if gate.holds)
        if not rooms:
            return
        self.keeper.hold(Hold(lease.delivery_tag, request.message.channel.leases, rooms))
        request._on_ack = self._then_end(request._on_ack, lease.delivery_tag)
        request._on_reject = self._then_end(request._on_reject, lease.delivery_tag)

    def _then_end(self, settle: Callable[..., Any], delivery_tag: str) -> Callable[..., Any]:
        # Weakly: a request lives as long as its run, and the limiter as long as its worker.
        keeper = weakref.ref(self.keeper)

        def settle_and_end(*args: Any, **kwargs: Any) -> Any:
            try:
                return settle(*args, **kwargs)
            finally:
                if (found := keeper()) is not None:
                    found.end(delivery_tag)

        return settle_and_end

    def on_revoked(self, task: Any, request: Any) -> None:
        """Celery discards a message before it comes here; one that was called gives its room back."""
        properties = request.properties or {}
        headers = vars(request)
        rooms = tuple(
            Room(gate.id, str(properties.get("delivery_tag")))
            for gate in self.gates_of(task, request.args, request.kwargs, headers)
        )
        if rooms:
            self.keeper.free(rooms)

    def _drop(self, request: Any) -> None:
        """It will not run here now: off the worker's books, without an ack."""
        request.message.channel.qos.forget(request.message.delivery_tag)
        request.acknowledged = True
        state.task_ready(request)
