"""What workers of an installed app answer to `celery control` and `celery inspect` besides Celery's own commands.

Only the node of such a worker has them; Celery's registry, which all apps of a process share, is left as it is.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker import control
from kombu.pidbox import Node

from celeray.scheduler.revoking import write_down
from celeray.scheduler.transport.channel import Channel
from celeray.scheduler.transport.scheduling import list_scheduled

SHOWN_MOST = 1_000
"""Entries of the schedule in one reply."""
PRIORITY = 6
"""What Celery gives to every entry of its timer."""


class ControlNode(Node):
    """A worker's mailbox node whose handlers are Celery's with those of this module before them."""

    def __init__(
        self,
        hostname: str,
        state: Any = None,
        channel: Any = None,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        mailbox: Any = None,
    ) -> None:
        super().__init__(hostname, state, channel, ChainMap(dict(HANDLERS), handlers or {}), mailbox)  # type: ignore[arg-type]


def revoke(
    state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any
) -> Any:
    """Celery's, kept for workers that are down."""
    write_down(state.app, task_id)
    return control.revoke(state, task_id, terminate, signal, **kwargs)


def terminate(state: Any, signal: str, task_id: Any, **kwargs: Any) -> Any:
    """Celery's, kept for workers that are down."""
    write_down(state.app, task_id)
    return control.terminate(state, signal, task_id, **kwargs)


def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any
) -> Any:
    """Celery's, kept for workers that are down."""
    if isinstance(headers, list):
        # From a command line: key=value.
        headers = {name: value for name, _, value in (text.partition("=") for text in headers)}
    write_down(state.app, [], headers)
    return control.revoke_by_stamped_headers(state, headers, terminate, signal, **kwargs)


def scheduled(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """What waits for its eta in this worker's timer, then in Redis for its queues: at most 1,000 of these."""
    found: list[dict[str, Any]] = control.scheduled(state, **kwargs)
    consumer = state.consumer.task_consumer
    channel = getattr(consumer, "channel", None)
    if not isinstance(channel, Channel):
        return found
    lists = [name for queue in consumer.queues for name in channel.keys.queue_lists(queue.name)]
    listing = list_scheduled(channel.leases.client, channel.keys, lists, SHOWN_MOST)
    found += [_entry(json.loads(text), state.hostname) for text in listing.shown]
    if more := listing.total - len(listing.shown):
        # Of the same shape, for clients that make a table of it.
        found.append(
            _entry({"eta": None, "request": {"id": f"{more} more", "name": "not listed"}}, state.hostname)
        )
    return found


def _entry(shown: Mapping[str, Any], hostname: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "id": None,
        "name": None,
        "args": "",
        "kwargs": "",
        "type": None,
        "delivery_info": {},
    }
    held = {"hostname": hostname, "time_start": None, "acknowledged": False, "worker_pid": None}
    return {"eta": shown["eta"], "priority": PRIORITY, "request": {**nothing, **shown["request"], **held}}


HANDLERS: Mapping[str, Callable[..., Any]] = {
    "revoke": revoke,
    "terminate": terminate,
    "revoke_by_stamped_headers": revoke_by_stamped_headers,
    "scheduled": scheduled,
    "dump_schedule": scheduled,
}
