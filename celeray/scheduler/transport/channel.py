"""A kombu channel that takes messages under leases. Publishing to exchanges, fanout and control stay kombu's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from celeray.scheduler.errors import MessageTooLargeError
from celeray.scheduler.keys import Keys
from celeray.scheduler.parked import ParkReason
from celeray.scheduler.transport.claiming import ANY, SKIPPED_MOST, Choice, Claim, read_reply
from celeray.scheduler.transport.demand import Demand
from celeray.scheduler.transport.keeping import LeaseKeeper
from celeray.scheduler.transport.leases import BACK, FRONT, LeaseBook
from celeray.scheduler.transport.message import Message, Payload, UnreadableMessageError
from celeray.scheduler.transport.options import LeaseOptions
from celeray.scheduler.transport.publishing_scope import PUBLISHED_TTL_S, publishing_scope
from celeray.scheduler.transport.qos import QoS
from celeray.scheduler.transport.restoring import Restored, restore_expired
from celeray.scheduler.transport.scripts import script
from celeray.scheduler.transport.turns import Turns


class Channel(kombu_redis.Channel):
    """On a Redis server."""

    QoS = QoS
    Message = Message
    _pooled_client: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._sentinel_manager: Any
        self.lease_options = LeaseOptions.read(connection.client.transport_options)
        self._no_ack_queues: set[str] = set()
        super().__init__(connection, **kwargs)

    # Parts

    @cached_property
    def keys(self) -> Keys:
        """How this channel spells its keys."""
        return Keys(
            prefix=self.global_keyprefix,
            separator=self.sep,
            unacked_key=self.unacked_key,
            unacked_index_key=self.unacked_index_key,
        )

    @cached_property
    def leases(self) -> LeaseBook:
        """The leases of this channel. It outlives the channel while runs go on."""
        return LeaseBook(self._own_pool(), self.keys, self.lease_options)

    @cached_property
    def lease_keeper(self) -> LeaseKeeper:
        """Renews them."""
        return LeaseKeeper(self.leases, self.restore_expired)

    @cached_property
    def demand(self) -> Demand:
        """What is wanted of the queues."""
        return Demand(self)

    @cached_property
    def turns(self) -> Turns:
        """Consuming, turn by turn of the poller."""
        return Turns(self, self._deliver_claimed)

    def _own_pool(self) -> redis.ConnectionPool:
        # Making a pool replaces the Sentinel object that kombu closes with the channel.
        manager = self._sentinel_manager
        pool: redis.ConnectionPool = self._get_pool()
        self._sentinel_manager = manager
        patience_s = max(0.5, min(5.0, self.lease_options.lease_s / 3))
        for name in ("socket_timeout", "socket_connect_timeout"):
            pool.connection_kwargs[name] = pool.connection_kwargs.get(name) or patience_s
        return pool

    def _create_client(self, asynchronous: bool = False) -> Any:
        """kombu makes one for every event and publish, which takes longer than to send it. One serves a pool for good.

        Thread-safe: each command takes a connection of its own from the pool.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)
        client = self._pooled_client
        if client is None or client.connection_pool is not self.pool:
            client = self._pooled_client = super()._create_client()
        return client

    # Publishing

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message on its list, as kombu does.

        Raises:
            MessageTooLargeError: it is larger than `max_message_bytes`; nothing was published.
        """
        payload = dumps(message)
        if len(payload) > self.lease_options.max_message_bytes:
            raise MessageTooLargeError(queue, len(payload), self.lease_options.max_message_bytes)
        priority = self._get_message_priority(message, reverse=False)
        commands: list[tuple[Any, ...]] = [("lpush", self._q_for_pri(queue, priority), payload)]
        if (expires := self._expires.get(queue)) is not None:
            commands += [("pexpire", self._q_for_pri(queue, step), expires) for step in self.priority_steps]
        batch = kwargs.pop("_publish_batch", None)
        if (scope := publishing_scope.get()) is not None and (task_id := message["headers"].get("id")):
            self._put_once(self.keys.once(scope, task_id), commands.pop(0)[1], payload)
        if batch is not None:
            for name, *arguments in commands:
                batch.add(name, *arguments)
            return
        with self.conn_or_acquire() as client:
            if len(commands) == 1 and commands[0][0] == "lpush":
                client.lpush(*commands[0][1:])
                return
            with client.pipeline() as pipe:
                for name, *arguments in commands:
                    getattr(pipe, name)(*arguments)
                pipe.execute()

    def _put_once(self, mark: str, list_name: str, payload: str) -> None:
        # kombu's own client knows not where a script's keys are, so the keys are prefixed here and the client is plain.
        client = redis.Redis(connection_pool=self.pool)
        script("publish_once")(client, [mark, f"{self.keys.prefix}{list_name}"], [PUBLISHED_TTL_S, payload])

    # Consuming

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            self._no_ack_queues.add(queue)
        else:
            self._no_ack_queues.discard(queue)
        found = super().basic_consume(queue, no_ack, *args, **kwargs)
        if self.active_queues:
            self.turns.ring()
        if self.active_queues and not no_ack:
            self.lease_keeper.start()
        return found

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """Take one message now. None: there is none."""
        claim = self._claim_of([queue], 1)
        if not no_ack:
            self.lease_keeper.start()
        if queue in self._expires:
            with self.conn_or_acquire() as client:
                self._maybe_update_queues_expire(client, queue)
        while True:
            reply = script("claim")(self.leases.client, claim.keys(self.leases), claim.arguments(self.leases))
            claimed = read_reply(reply, claim, self.leases)
            if not claimed.size:
                return None
            for payload, _queue in claimed.messages:
                if (message := self._message(payload)) is not None:
                    if no_ack:
                        self.leases.note_ack(message.delivery_tag)
                        self.leases.flush()
                    else:
                        self.qos.append(message, message.delivery_tag)
                    return message

    def _message(self, payload: Payload) -> Any:
        try:
            return self.Message(payload, channel=self)
        except UnreadableMessageError as error:
            self.leases.park(payload.lease, ParkReason.UNREADABLE, str(error))
            return None

    def next_claim(self, depth: int = SKIPPED_MOST) -> Claim | None:
        """What may be claimed now, as far as credit goes. None: nothing is consumed.

        Args:
            depth: messages of a list that it may look past.
        """
        queues = self._queue_cycle.consume(len(self.active_queues))
        return self._claim_of(queues, self.demand.credit(), self.demand.choice, depth) if queues else None

    def _claim_of(
        self, queues: Sequence[str], most: int, choice: Choice = ANY, depth: int = SKIPPED_MOST
    ) -> Claim:
        names = tuple(queues)
        if (lists := self._lists.get(names)) is None:
            lists = self._lists[names] = tuple(
                f"{self.keys.prefix}{self._q_for_pri(queue, step)}"
                for step in self.priority_steps
                for queue in names
            )
        return Claim(names, lists, most, self.queue_order_strategy == "round_robin", choice, depth)

    @cached_property
    def _lists(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Of the queues that were claimed from, by their order: made once, and not for every claim."""
        return {}

    def _deliver_claimed(self, payload: Payload, queue: str) -> None:
        self._queue_cycle.rotate(queue)
        if queue in self._no_ack_queues:
            self.leases.note_ack(payload.lease.delivery_tag)
            self.qos.settle()
        try:
            self.connection._deliver(payload, queue)
        except UnreadableMessageError as error:
            self.leases.park(payload.lease, ParkReason.UNREADABLE, str(error))

    # Poller: the names are kombu's

    def _brpop_start(self, timeout: float | None = None) -> None:
        connection = self.client.connection
        if self.turns.start(connection):
            self._in_poll, self._brpop_sent_at = connection, monotonic()

    def _brpop_read(self, **_: Any) -> bool:
        connection = self.client.connection
        try:
            due_again = self.turns.read(connection)
        except self.connection_errors:
            connection.disconnect()
            raise
        else:
            self._in_poll, self._brpop_sent_at = connection if due_again else None, monotonic()
        if not due_again:
            self._flush_brpop_reauth()
        delivered = self.turns.deliver()
        if not delivered and self.turns.loop_thread is None:
            # Tells `drain_events` to wait on.
            raise Empty
        return delivered

    def settles_later(self, thread: int) -> bool:
        """Whether what is noted in `thread` needs no flush of its own, since the next turn sends it."""
        return not self.closed and self.turns.settles_later(thread)

    def _on_connection_disconnect(self, connection: Any) -> None:
        client = self.__dict__.get("client")
        if client is not None and getattr(client, "connection", None) is connection:
            self.turns.lost_connection()
        super()._on_connection_disconnect(connection)

    # Held messages

    def move_held(self, delivery_tag: str, queue: str, message: Mapping[str, Any], *, front: bool) -> bool:
        """Put another version of a held message on a queue, in one step. False where it was not held any more."""
        priority = self._get_message_priority(message, reverse=False)
        key = f"{self.keys.prefix}{self._q_for_pri(queue, priority)}"
        moved = self.leases.move(delivery_tag, key, dumps(message), push=FRONT if front else BACK)
        self.qos.forget(delivery_tag)
        return moved

    def give_back_held(self, delivery_tag: str) -> bool:
        """Put a held message back at the front of its list, byte for byte and uncounted. False: not held any more."""
        return bool(self.qos.give_back(delivery_tag))

    def restore_expired(self) -> Restored:
        """Put back messages whose lease has ended, whoever held them. Raises `redis.RedisError`."""
        found = restore_expired(
            self.leases.client,
            self.keys,
            self.lease_options,
            visibility_timeout_s=self.visibility_timeout,
            priority_steps=self.priority_steps,
        )
        if not self.closed:
            for tag in found.bound:
                self.qos.restore_by_tag(tag)
        return found

    # End

    def close(self) -> None:
        """Give back what has not begun; what runs stays leased until its ack."""
        self._closing = True
        if not self.closed and "turns" in vars(self):
            self.turns.close(self._in_poll, self.connection_errors)
        self._in_poll = None
        super().close()
        if "lease_keeper" in vars(self):
            self.lease_keeper.stop()


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """On the master that Sentinels name."""
