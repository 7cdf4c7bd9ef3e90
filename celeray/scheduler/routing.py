"""Which queue a task goes to, at which priority, asking for what. Pure: settings and a message in, a `Route` out.

Most specific first: the `priority_task` flag, the devices it asks for, the route map by short task name, the default.
An explicit `queue=` never gets here: Celery's router prefers it to any route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler import priorities, requests
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.settings import Settings

GPU_QUEUE_DEFAULT = {"gpu": True}
"""Default request of the gpu queues: a whole device."""
CACHE_MAX = 4096
"""Distinct requirements that are kept parsed. Beyond it all are dropped: an app has tens."""


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of a call."""

    queue: str
    priority: int
    """1 to 10, 10 most urgent."""
    request: ResourceRequest


class TaskRouter:
    """Routes by the settings. Keeps parsed requirements by value, and no other state."""

    def __init__(self, settings: Settings, *, default_queue: str | None = None) -> None:
        """
        Args:
            default_queue: for tasks that nothing else routes; default `settings.default_queue`.
        """
        self.settings = settings
        self.default_queue = default_queue or settings.default_queue
        self._parsed: dict[Any, ResourceRequest] = {}

    def route(
        self,
        name: str,
        kwargs: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        attribute: Mapping[str, Any] | None = None,
    ) -> Route:
        """Route one call.

        Args:
            name: of the task, with its module.
            kwargs: the task's own, where older apps put flags.
            headers: the message's.
            attribute: the task's `resource_requirements`. None: it has none, or only its name is known.

        Raises:
            RequirementError: a requirement or a flag can't be understood.
        """
        flags = priorities.read_flags(headers, kwargs)
        own = self.own_queue(name, headers, attribute)
        return Route(
            queue=self.settings.priority_queue if flags.priority_task else own,
            priority=priorities.effective(flags.priority or priorities.DEFAULT, flags),
            request=self.request_for(headers, attribute, own),
        )

    def own_queue(
        self,
        name: str,
        headers: Mapping[str, Any] | None = None,
        attribute: Mapping[str, Any] | None = None,
    ) -> str:
        """The queue without the `priority_task` flag: where a message on the priority queue belongs.

        Raises:
            RequirementError: a requirement can't be understood.
        """
        return self.specific_queue(name, headers, attribute) or self.default_queue

    def specific_queue(
        self,
        name: str,
        headers: Mapping[str, Any] | None = None,
        attribute: Mapping[str, Any] | None = None,
    ) -> str | None:
        """As `own_queue`, but None where only the default is left."""
        request = self._effective(headers, attribute, on_gpu_queue=False)
        if request.gpus:
            large = (request.memory_mib or 0) > self.settings.gpu_large_above_mib
            return self.settings.gpu_large_queue if large else self.settings.gpu_small_queue
        return self.settings.routes.get(name.rpartition(".")[2])

    def request_for(
        self,
        headers: Mapping[str, Any] | None,
        attribute: Mapping[str, Any] | None,
        queue: str,
    ) -> ResourceRequest:
        """The effective request of a message on `queue`, with that queue's default beneath it.

        Raises:
            RequirementError: a requirement can't be understood.
        """
        return self._effective(headers, attribute, on_gpu_queue=self.settings.is_gpu_queue(queue))

    def _effective(
        self,
        headers: Mapping[str, Any] | None,
        attribute: Mapping[str, Any] | None,
        *,
        on_gpu_queue: bool,
    ) -> ResourceRequest:
        header = headers.get(requests.HEADER) if headers else None
        key: Any = (_value_key(header), _value_key(attribute), on_gpu_queue)
        try:
            if (known := self._parsed.get(key)) is not None:
                return known
        except TypeError:
            key = None  # something that no requirement may hold; parsing names it
        request = requests.effective_request(header, attribute, GPU_QUEUE_DEFAULT if on_gpu_queue else None)
        if key is not None:
            if len(self._parsed) >= CACHE_MAX:
                self._parsed.clear()
            self._parsed[key] = request
        return request


def _value_key(value: Any) -> Any:
    """Equal exactly for requirements that mean the same: with types, since `True == 1 == 1.0`."""
    if isinstance(value, Mapping):
        return tuple([(name, _value_key(item)) for name, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([_value_key(item) for item in value])
    return (value.__class__, value)
