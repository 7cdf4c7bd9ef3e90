"""In every worker of an installed app: a task whose eta is far waits in Redis, and not in this worker's memory.

It stands before Celery's own handling of messages, so it works for every producer. What comes back shortly before its
eta goes to Celery's timer as ever, and with it precision, revokes and expiry are Celery's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from time import monotonic
from typing import Any

import redis
from celery import bootsteps
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from celery.worker import state
from kombu.asynchronous.timer import to_timestamp

from celeray.scheduler.installed import settings_of
from celeray.scheduler.transport.channel import Channel
from celeray.scheduler.transport.scheduling import FarEta, Verdict, schedule

logger = logging.getLogger(__name__)

SHOWN_CHARACTERS = 1024
"""Of the arguments; Celery's own default (`argsrepr_maxsize`)."""
LOOKS_A_BOUND = 3
"""What is due is looked for so often in the time that is left until its eta."""


@dataclass(frozen=True, slots=True)
class Eta:
    """What a message says about its time."""

    task_id: str
    iso: str
    in_s: float
    """From now; negative where it has passed."""


def eta_of(message: Any, app: Any) -> Eta | None:
    """The eta of a message of either protocol, read as Celery does (celery/worker/strategy.py, request.py).

    None: it has none, or Celery has to say what is wrong with it.
    """
    try:
        fields, utc = _fields(message, app)
        task_id, given = fields["id"], fields.get("eta")
        if not given or not isinstance(task_id, str):
            return None
        eta = maybe_make_aware(maybe_iso8601(given), app.conf.timezone)
        due = to_timestamp(timezone.to_system(eta)) if utc else to_timestamp(eta, app.timezone)
        return Eta(task_id, eta.isoformat(), due - monotonic())
    except Exception:  # noqa: BLE001 - whoever can publish can send anything, and Celery reports it
        return None


def _fields(message: Any, app: Any) -> tuple[Mapping[str, Any], bool]:
    """What says id and eta, and whether it speaks of UTC."""
    if "task" in message.headers:
        return message.headers, app.uses_utc_timezone()
    body = message.decode()
    return body, body.get("utc", True)


def shown(message: Any, eta: Eta) -> str:
    """The message as `inspect scheduled` shows it. Arguments are the text that the producer made of them."""
    headers, info = message.headers, message.delivery_info or {}
    request = {
        "id": eta.task_id,
        "name": headers.get("shadow") or headers.get("task"),
        "args": str(headers.get("argsrepr", ""))[:SHOWN_CHARACTERS],
        "kwargs": str(headers.get("kwargsrepr", ""))[:SHOWN_CHARACTERS],
        "type": headers.get("task"),
        "delivery_info": {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": (message.properties or {}).get("priority"),
            "redelivered": bool(info.get("redelivered", False)),
        },
    }
    return json.dumps({"eta": eta.iso, "request": request})


class EtaScheduler:
    """Stands before a consumer's handler of messages. Belongs to the consumer's thread."""

    def __init__(self, consumer: Any, handle: Callable[[Any], Any], bound_s: float) -> None:
        """
        Args:
            bound_s: what is further away than this waits in Redis.
        """
        self._consumer = consumer
        self._handle = handle
        self._bound_s = bound_s
        self._collected: list[tuple[Any, Eta]] = []

    def __call__(self, message: Any) -> Any:
        if (eta := self._far(message)) is None:
            return self._handle(message)
        self._collected.append((message, eta))
        if self._consumer.hub is None:
            self.flush()
        elif len(self._collected) == 1:
            # One script for all messages of this turn of the event loop.
            self._consumer.hub.call_soon(self.flush)
        return None

    def _far(self, message: Any) -> Eta | None:
        headers = message.headers
        # Nearly all have none. Headers that are no mapping are an unknown message to Celery.
        if not isinstance(headers, dict) or ("task" in headers and not headers.get("eta")):
            return None
        channel = message.channel
        if not isinstance(channel, Channel) or channel.leases.get(message.delivery_tag) is None:
            return None
        eta = eta_of(message, self._consumer.app)
        if eta is None or eta.in_s <= self._bound_s or eta.task_id in state.revoked:
            return None
        # An unknown task is refused now, and not when its time has come.
        name = headers.get("task") or message.decode().get("task")
        return eta if name in self._consumer.strategies else None

    def flush(self) -> None:
        """Take what was collected into the schedule.

        Raises:
            redis.RedisError: Redis does not answer; then the consumer connects again, and gives back what it holds.
        """
        collected, self._collected = self._collected, []
        for channel, items in groupby(collected, key=lambda item: item[0].channel):
            self._schedule(channel, list(items))

    def _schedule(self, channel: Any, items: list[tuple[Any, Eta]]) -> None:
        held = [
            (message, FarEta(lease, eta.in_s - self._bound_s, eta.task_id, shown(message, eta)))
            for message, eta in items
            # Given back meanwhile, when the connection was lost.
            if (lease := channel.leases.get(message.delivery_tag)) is not None
        ]
        try:
            verdicts = schedule(channel.leases, [item for _, item in held])
        except redis.exceptions.ReadOnlyError as error:
            # A demoted master: the next connection finds the new one.
            raise redis.ConnectionError(str(error)) from error
        for (message, item), verdict in zip(held, verdicts, strict=True):
            if verdict is Verdict.REVOKED:
                state.revoked.add(item.task_id)
                self._handle(message)
            else:
                channel.qos.forget(message.delivery_tag)
        if scheduled := verdicts.count(Verdict.SCHEDULED):
            logger.info("%d tasks wait in Redis for their eta", scheduled)


class ScheduleEtas(bootsteps.Step):
    """Consumer step. The event loop asks for the handler when it starts, which is after every step is made."""

    def create(self, parent: Any) -> None:
        bound_s = settings_of(parent.app).eta_in_memory_s
        parent.create_task_handler = partial(_create_handler, parent, parent.create_task_handler, bound_s)


def _create_handler(consumer: Any, create: Callable[..., Any], bound_s: float, **kwargs: Any) -> EtaScheduler:
    channel = getattr(consumer.task_consumer, "channel", None)
    if isinstance(channel, Channel):
        channel.lease_keeper.look_every(bound_s / LOOKS_A_BOUND)
    return EtaScheduler(consumer, create(**kwargs), bound_s)
