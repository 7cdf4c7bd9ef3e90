"""What a worker makes of a message: its API priority, the queue it came from, and what it asks for.

Plain workers and the bridge share it, so both mean the same by a message, whoever published it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler import priorities, requests
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.settings import Settings
from celeray.scheduler.tenants import tenant_of

_READ = "celeray_received"
"""Attribute of a request: what was read of it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was understood."""

    priority: int
    """1 to 10, 10 most urgent."""
    queue: str
    """Where it was fetched from."""
    own_queue: str
    """Where it belongs: `queue`, unless that is the priority queue."""
    request: ResourceRequest
    tenant: str | None = None
    """Whom it is for. None: it names nobody."""


def receive(request: Any, settings: Settings) -> Received | RequirementError:
    """Read a worker's `Request` (celery/worker/request.py). Every reader of a request gets the same value.

    Args:
        request: of an app on which celeray is installed.

    Returns:
        The error, not raised, where the requirements can't be understood: the caller ends the task with it.
    """
    known: Received | RequirementError | None = getattr(request, _READ, None)
    if known is None:
        known = _read(request, settings)
        setattr(request, _READ, known)
    return known


def _read(request: Any, settings: Settings) -> Received | RequirementError:
    amqp, task = request.app.amqp, request.task
    headers = request.message.headers
    queue = queue_of(request)
    try:
        own = queue
        if queue == settings.priority_queue:
            own = amqp.own_queue(request.type, request.args, request.kwargs, headers, task)
        wanted = amqp.task_router.request_for(headers, getattr(task, requests.HEADER, None), own)
        tenant = tenant_of(headers)
    except RequirementError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever a parser did not expect
        # Whoever can publish can send anything: what a parser did not expect must not end the worker.
        return RequirementError(requests.HEADER, "...", f"can't be read: {type(error).__name__}")
    return Received(priority_of(request), queue, own, wanted, tenant)


def priority_of(request: Any) -> int:
    """API priority of a received message."""
    return priorities.from_broker(
        request.message.properties.get("priority"),
        request.message.headers.get(priorities.HEADER),
        lowest_first=request.app.amqp.broker_kind.lowest_first,
    )


def queue_of(request: Any) -> str:
    """Name of the queue that a message was fetched from.

    The routing key is the queue's name everywhere but on a named exchange whose bindings the user chose.
    """
    return queue_named(request.app, request.delivery_info)


def queue_named(app: Any, delivery_info: Mapping[str, Any]) -> str:
    """As `queue_of`, by what a delivery says."""
    exchange, key = delivery_info.get("exchange"), delivery_info.get("routing_key")
    queues = app.amqp.queues
    if not exchange or key in queues:
        return str(key)
    bound = (
        name
        for name, queue in queues.items()
        if queue.exchange and queue.exchange.name == exchange and queue.routing_key == key
    )
    return next(bound, str(key))
