"""In every worker of an installed app: what its transport claims, and what goes back when a queue is paused.

A plain worker claims as many messages as its pool could begin at once, so that none is fetched that something more
urgent would have to wait behind; the claim travels in one packet with the acknowledgements that make the room. The
bridge has a window to choose from, which it looks after itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from celeray.scheduler.forwarding import runs_on_ray
from celeray.scheduler.moving import give_back_all
from celeray.scheduler.transport.channel import Channel
from celeray.scheduler.unbegun import withdraw_unbegun

logger = logging.getLogger(__name__)

AGAIN_S = 1.0
"""After messages could not be given back."""


class ChooseMessages(bootsteps.StartStopStep):
    """Consumer step, for the leased transport. Started again after every reconnect, with another channel."""

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        if not isinstance(channel, Channel):
            return
        demand = channel.demand
        demand.on_paused.append(partial(give_back_paused, consumer))
        if runs_on_ray(consumer.pool):
            consumer.pool.window.attach(demand)
        else:
            # What Celery puts there with `worker_disable_prefetch` says the same, one message a claim.
            channel.qos.__dict__.pop("can_consume", None)
            demand.free_slots = slots_of(consumer)


def slots_of(consumer: Any) -> Callable[[], int]:
    """How many more tasks a plain worker's pool could begin now."""

    def free_slots() -> int:
        # The autoscaler's maximum, or the pool would never grow; as in celery/worker/consumer/tasks.py.
        slots = getattr(consumer.controller, "max_concurrency", None) or consumer.pool.num_processes
        return int(slots) - len(state.reserved_requests)

    return free_slots


def give_back_paused(consumer: Any, queues: frozenset[str]) -> int:
    """Give back what the worker holds of paused queues and has not begun; returns how many there were."""
    if not queues:
        return 0
    requests = withdraw_unbegun(consumer, queues)
    if requests:
        logger.info("giving back %d messages of paused queues: %s", len(requests), ", ".join(sorted(queues)))
        _give_back(consumer, requests)
    return len(requests)


def _give_back(consumer: Any, requests: list[Any]) -> None:
    try:
        give_back_all(requests)
    except (redis.RedisError, OSError) as error:
        logger.warning("%d messages can't be given back yet: %r", len(requests), error)
        consumer.timer.call_after(AGAIN_S, _give_back, (consumer, requests))
