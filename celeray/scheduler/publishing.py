"""What happens to a message between `apply_async` and the broker: requests checked, the priority translated once.

It stands in the app's AMQP class, and not in a `before_task_publish` receiver, since a signal swallows what its
receivers raise (celery/utils/dispatch/signal.py), and a refused task must raise in its caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis

from celeray.scheduler import message_class, priorities, requests, tenants
from celeray.scheduler.broker import broker_keys, broker_redis
from celeray.scheduler.capacity import CapacityReader, could_ever_fit
from celeray.scheduler.defaults import user_conf
from celeray.scheduler.errors import ConfigurationError, SubmissionError, SubmissionUnsupportedError
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.tags import HEADER as TAG_HEADER
from celeray.scheduler.limits.gates import LimitRules, check
from celeray.scheduler.priorities import Flags
from celeray.scheduler.promises import PICKLES
from celeray.scheduler.result_ttl import read_ttl_s
from celeray.scheduler.submission import deduplication
from celeray.scheduler.submission.deduplication import HOLD_HEADER
from celeray.scheduler.submission.terms import DURABLE_HEADER, Terms, read_terms
from celeray.scheduler.topology import BrokerKind

WORKER_RETRY_POLICY = {"max_retries": 100, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 1.0}
"""Seconds; for what is published within a task, about 100 s in all. Celery's own policy ends after 0.6 s, and then a
task that did its work counts as failed, since its callback could not be published: in any failover, that is."""
_ASKING = (deduplication.HEADER, DURABLE_HEADER, HOLD_HEADER)
"""Headers, and attributes of tasks."""


class Publisher:
    """Prepares messages of one app. Made with its task sender, so once an app."""

    def __init__(self, amqp: Any) -> None:
        self._amqp = amqp
        self._app = amqp.app
        self._lowest_first = amqp.broker_kind.lowest_first
        self._default_serializer: str = self._app.conf.task_serializer
        self._replicas: int = amqp.task_router.settings.durable_replicas
        self._capacity = CapacityReader()
        self._limits = LimitRules(amqp.task_router.settings.limits)
        self._client: redis.Redis | None = None
        self._is_patient = user_conf(self._app.conf).get("task_publish_retry_policy") is None

    def prepare(self, name: str, message: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `send_task_message` for a message, completed.

        Args:
            message: Celery's `task_message` tuple. Its body is not changed.

        Raises:
            RequirementError: a requirement, a flag or the tenant can't be understood, or the request can never fit
                the cluster.
            LimitError: the task's limits can't be understood, or the call has no value for the key of one.
            SubmissionError: `result_ttl_s` is out of its bound.
            ConfigurationError: the message would be pickled.
        """
        headers = options.get("headers") or {}
        args, kwargs = _arguments(message.body)
        task = self._app._tasks.get(name)
        read_ttl_s(headers, task)
        flags = priorities.read_flags(headers, kwargs)
        tenant = tenants.published_by(headers, self._running_headers())
        classed = self._check_request(name, args, kwargs, options, task, tenant)
        if limits := self._limits.of_task(name, task):
            check(limits, self._limits.call(name, task, args, kwargs, headers))
        priority = self._priority(options.get("priority"), headers, flags, task)
        patience = (
            {"retry_policy": WORKER_RETRY_POLICY} if self._is_patient and self._in_task(options) else {}
        )
        return {
            **options,
            **patience,
            "priority": priorities.to_broker(priority, lowest_first=self._lowest_first),
            "headers": {**_without(headers), **_named(tenant), priorities.HEADER: priority, **classed},
            "serializer": self._serializer(options.get("serializer"), message.body),
        }

    def terms(
        self, name: str, message: Any, options: dict[str, Any], batch_id: str | None = None
    ) -> Terms | None:
        """What the call asks of its submission; None: nothing that Celery's own way could not keep.

        Args:
            options: as `prepare` has made them. A header is added to them, or one of another message taken out.
            batch_id: the group of the batch that it is in. Then there always are terms.

        Raises:
            SubmissionError: not understood, or out of its bound.
            SubmissionUnsupportedError: the broker is no Redis.
        """
        headers, task, running = options["headers"], self._app._tasks.get(name), self._app.current_worker_task
        request = None if running is None else running.request
        asked = (
            self._replicas
            or batch_id
            or any(asks in headers or getattr(task, asks, None) is not None for asks in _ASKING)
            or (request is not None and request.headers and HOLD_HEADER in request.headers)
        )
        if not asked:
            return None
        if "id" not in message.headers:
            raise SubmissionError("task_protocol", 1, "2: for deduplicated, durable and batch submissions")
        terms = read_terms(
            name,
            message,
            headers,
            task=task,
            replicas=self._replicas,
            running=request,
            batch_id=batch_id,
        )
        headers.pop(HOLD_HEADER, None)
        if terms.hold:
            headers[HOLD_HEADER] = terms.hold
        if not terms.special and not batch_id:
            return None
        if self._amqp.broker_kind is not BrokerKind.REDIS:
            key, value = ("deduplicate", True) if terms.digest else (DURABLE_HEADER, terms.replicas)
            raise SubmissionUnsupportedError(
                key, value, f"a Redis broker; this one is {self._amqp.broker_kind}"
            )
        return terms

    def _in_task(self, options: Mapping[str, Any]) -> bool:
        """Whether a running task publishes, and leaves it to the app how long to try."""
        return options.get("retry_policy") is None and self._app.current_worker_task is not None

    def _check_request(
        self,
        name: str,
        args: Any,
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: Any,
        tenant: str | None,
    ) -> dict[str, str]:
        """Returns the header of the message's class, where the bridge may have to choose by it."""
        headers, router = options.get("headers") or {}, self._amqp.task_router
        queue = _queue_name(options) or router.default_queue
        if queue == router.settings.priority_queue:
            queue = self._amqp.own_queue(name, args, kwargs, headers, task)
        request = router.request_for(headers, getattr(task, requests.HEADER, None), queue)
        if request.gpus and (error := could_ever_fit(request, self._capacity.current(self._connect))):
            raise error
        if request.gpus or router.settings.is_gpu_queue(queue) or message_class.HEADER in headers:
            if self._running_headers() is None:
                # A retry has the headers of its message, whatever these are.
                tenants.check(headers)
            return {message_class.HEADER: message_class.message_class(name, request, tenant)}
        return {}

    def _running_headers(self) -> Mapping[str, Any] | None:
        running = self._app.current_worker_task
        return None if running is None else running.request.headers

    def _connect(self) -> tuple[redis.Redis, Keys]:
        if self._client is None:
            self._client = broker_redis(self._app)
        return self._client, broker_keys(self._app)

    def _priority(self, option: Any, headers: Mapping[str, Any], flags: Flags, task: Any) -> int:
        """The API priority. A value that is effective already is not moved by the flags again."""
        if option is None:
            return priorities.effective(flags.priority or priorities.DEFAULT, flags)
        base = priorities.checked(option)
        if headers.get(priorities.HEADER) == base or self._inherited(option):
            return base
        if flags.priority is not None and option == getattr(task, "priority", None):
            # The option came from the task's declaration; what was said for this call is more specific.
            base = flags.priority
        return priorities.effective(base, flags)

    def _inherited(self, option: int) -> bool:
        parent = self._app.current_worker_task
        if parent is None or not self._app.conf.task_inherit_parent_priority:
            return False
        return (parent.request.delivery_info or {}).get("priority") == option

    def _serializer(self, option: str | None, body: Any) -> str:
        serializer = option or self._default_serializer
        if serializer in PICKLES:
            raise ConfigurationError(
                f"serializer={serializer!r}: pickle runs code of whoever can write to the broker; "
                "use msgpack or json, and pass references to what neither can hold"
            )
        if serializer == "msgpack" and not survives_msgpack(body):
            return "json"
        return serializer


def survives_msgpack(body: Any) -> bool:
    """Whether a worker could read the body: kombu's msgpack writes no dates, and keys that it then can't read.

    JSON carries both as it does in a stock app: `datetime`, `UUID`, `Decimal` come back as they were, and keys
    become strings.
    """
    try:
        msgpack.unpackb(msgpack.packb(body, use_bin_type=True), raw=False)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _without(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a running task publishes has its headers, and is a message of its own. A `tenant` that is no name stays."""
    own = {TAG_HEADER}
    if headers.get(tenants.HEADER) is None or tenants.tenant_of(headers):
        own.add(tenants.HEADER)
    return {name: value for name, value in headers.items() if name not in own}


def _named(tenant: str | None) -> dict[str, str]:
    return {} if tenant is None else {tenants.HEADER: tenant}


def _arguments(body: Any) -> tuple[Any, Mapping[str, Any]]:
    """The task's args and kwargs in a body of either message protocol."""
    if isinstance(body, Mapping):
        return body.get("args") or (), body.get("kwargs") or {}
    return body[0], body[1]


def _queue_name(options: Mapping[str, Any]) -> str | None:
    """The queue that the message will reach, as `send_task_message` chooses it."""
    if options.get("exchange") and options.get("routing_key"):
        return str(options["routing_key"])
    queue = options.get("queue")
    return queue if queue is None or isinstance(queue, str) else queue.name
