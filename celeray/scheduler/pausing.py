"""Pausing and resuming queues from the outside. The state lies in Redis, so a worker that starts later honours it.

Workers of the leased transport look there before they claim. A paused queue takes submissions as before.
"""

from __future__ import annotations

from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from celeray.scheduler.audit import AuditTrail, checked_by, checked_why
from celeray.scheduler.errors import PauseUnsupportedError, UnknownQueueError
from celeray.scheduler.keys import Keys
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore, UnreadableStatusError
from celeray.scheduler.suspensions import Pause, suspended_anew
from celeray.scheduler.topology import BrokerKind

RESUMED_WHY = "resumed"
"""What the trail says where no reason was given."""


class PauseChange(BaseModel):
    """A queue after `pause` or `resume`."""

    model_config = ConfigDict(frozen=True)

    queue: str
    paused: Pause | None
    changed: bool
    """False: it was so before, and nothing was written."""


class Pauses:
    """Pauses and resumes the queues of one broker.

    Methods raise `redis.RedisError` when Redis does not answer.
    """

    def __init__(
        self, store: StatusStore, settings: Settings, broker_kind: BrokerKind = BrokerKind.REDIS
    ) -> None:
        """
        Args:
            store: of the broker's database.
            broker_kind: of the app; REDIS where only the URL of a Redis is known.
        """
        self._store = store
        self._client: Any = store.client
        self._key = store.keys.paused()
        self._audit = AuditTrail(store.client, store.keys)
        self._settings = settings
        self._broker_kind = broker_kind

    def pause(self, queue: str, *, by: str, why: str, now: float) -> PauseChange:
        """Let no worker take from a queue until it is resumed.

        A queue that is paused stays paused since then; another reason replaces the one that is there.

        Args:
            now: seconds since the epoch.

        Raises:
            PauseUnsupportedError: no worker would honour it with this broker or transport.
            UnknownQueueError: there is no such queue.
            OperatorInputError: `by` or `why` can't be kept.
        """
        self._check_broker()
        if self._settings.transport != "leased":
            raise PauseUnsupportedError(
                f"transport={self._settings.transport!r}: workers of kombu's own transport cannot be held back, so "
                'nothing would honour a pause; set transport = "leased" on every worker'
            )
        by, why = checked_by(by), checked_why(why)
        self._check_known(queue)

        def decide_and_write(pipe: Any) -> PauseChange:
            current = _parsed(queue, pipe.hget(self._key, queue))
            paused = suspended_anew(Pause, current, by=by, why=why, now=now)
            pipe.multi()
            if paused != current:
                pipe.hset(self._key, queue, paused.model_dump_json())
                self._audit.add(pipe, at=now, by=by, action="pause", target=queue, why=why)
            return PauseChange(queue=queue, paused=paused, changed=paused != current)

        return self._transaction(decide_and_write)

    def resume(self, queue: str, *, by: str, now: float, why: str = RESUMED_WHY) -> PauseChange:
        """Let workers take from a queue again. Works with any transport, since it can only undo.

        Raises:
            PauseUnsupportedError: the broker is no Redis.
            UnknownQueueError: there is no such queue, and none of the name is paused.
            OperatorInputError: `by` or `why` can't be kept.
        """
        self._check_broker()
        by, why = checked_by(by), checked_why(why)
        if not self._client.hexists(self._key, queue):
            self._check_known(queue)

        def decide_and_write(pipe: Any) -> PauseChange:
            was_paused = bool(pipe.hexists(self._key, queue))
            pipe.multi()
            if was_paused:
                pipe.hdel(self._key, queue)
                self._audit.add(pipe, at=now, by=by, action="resume", target=queue, why=why)
            return PauseChange(queue=queue, paused=None, changed=was_paused)

        return self._transaction(decide_and_write)

    def paused(self) -> dict[str, Pause]:
        """The queues that are paused, by name.

        Raises:
            UnreadableStatusError: an incompatible version wrote there.
        """
        return read_paused(self._client, self._store.keys)

    def _transaction(self, decide_and_write: Any) -> PauseChange:
        """State and record in one MULTI; decided anew where another operator wrote in between."""
        return self._client.transaction(decide_and_write, self._key, value_from_callable=True)

    def _check_broker(self) -> None:
        if self._broker_kind is not BrokerKind.REDIS:
            raise PauseUnsupportedError(
                f"broker of kind {self._broker_kind.value!r}: queues can be paused and resumed on Redis only; "
                "`celery control cancel_consumer QUEUE` stops the workers that run now"
            )

    def _check_known(self, queue: str) -> None:
        # The settings first, so that a bridge of an incompatible version keeps nobody from pausing.
        if queue in self._settings.queues:
            return
        held = (part.name for bridge in self._store.read_bridges() for part in bridge.queues)
        known = tuple(dict.fromkeys((*self._settings.queues, *held)))
        if queue not in known:
            raise UnknownQueueError(queue, known)


def read_paused(client: redis.Redis, keys: Keys) -> dict[str, Pause]:
    """The queues that are paused, in the order of their names.

    Raises:
        redis.RedisError: Redis does not answer.
        UnreadableStatusError: an incompatible version wrote there.
    """
    found: Any = client.hgetall(keys.paused())
    pauses = {(name.decode() if isinstance(name, bytes) else name): raw for name, raw in found.items()}
    return {name: pause for name in sorted(pauses) if (pause := _parsed(name, pauses[name]))}


def _parsed(queue: str, document: bytes | str | None) -> Pause | None:
    try:
        return None if document is None else Pause.model_validate_json(document)
    except ValidationError as error:
        raise UnreadableStatusError(
            f"the pause of queue {queue!r} in Redis can't be read by this version of celeray; "
            f"`celeray resume {queue}` takes it away: {error}"
        ) from error
