"""The app's AMQP class with the contract in it: queues, connections, routes and the task sender.

`app.amqp_cls` is replaced by a class that has `AMQPMixin` before whatever it was, stock or third-party. All of it
reads the app's conf when asked, so that what the user sets later counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from celery.app.amqp import Queues
from kombu import Connection, Exchange

from celeray.scheduler.gating import publishing
from celeray.scheduler.installed import settings_of
from celeray.scheduler.priorities import read_flags
from celeray.scheduler.promises import refuse_pickle
from celeray.scheduler.publishing import Publisher
from celeray.scheduler.requests import HEADER
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.submission.collecting import batch_of
from celeray.scheduler.submission.single import TermsProducer
from celeray.scheduler.topology import (
    ANONYMOUS,
    PRIORITY_STEPS,
    BrokerKind,
    contract_queues,
    kind_of_conf,
    kind_of_connection,
)
from celeray.scheduler.transport.selection import leased_connection_class


class AMQPMixin:
    """Goes before a `celery.app.amqp.AMQP`."""

    app: Any
    _rtable: Any

    @cached_property
    def broker_kind(self) -> BrokerKind:
        """Kind of the broker that messages go to."""
        return kind_of_conf(self.app.conf)

    @cached_property
    def task_router(self) -> TaskRouter:
        """The contract's router with the app's settings, and with the app's default queue where the user chose one."""
        # Like Celery's own default_queue it is fixed with the first use; install makes a new object.
        return TaskRouter(settings_of(self.app), default_queue=self.app.conf.task_default_queue)

    # Connections

    def Connection(  # noqa: N802 - Celery's name
        self, *args: Any, transport_options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Connection:
        """Celery's connection class, on Redis with the ten priority steps and the transport of the settings.

        A worker without them would never look into six of ten lists.
        """
        make: Callable[..., Connection] = super().Connection  # type: ignore[misc]
        if settings_of(self.app).transport == "leased":
            make = leased_connection_class(make)
        connection = make(*args, transport_options=dict(transport_options or {}), **kwargs)
        if kind_of_connection(connection) is BrokerKind.REDIS:
            connection.transport_options.setdefault("priority_steps", PRIORITY_STEPS)
        return connection

    # Queues

    def Queues(self, queues: Any, *args: Any, **kwargs: Any) -> Queues:  # noqa: N802 - Celery's name
        """The user's queues, then those of the contract that are missing."""
        make: Callable[..., Queues] = super().Queues  # type: ignore[misc]
        settings = settings_of(self.app)
        contract = contract_queues(settings, self.broker_kind)
        if not queues and self.app.conf.task_default_queue in settings.queues:
            queues = contract
        # Without queues Celery declares the default one, which the user then has chosen.
        found = make(queues, *args, **kwargs)
        for queue in contract:
            if queue.name not in found:
                found.select_add(queue)
        return found

    @cached_property
    def default_exchange(self) -> Exchange:
        """What Celery gives to queues that name no exchange: on Redis none, unless the user chose one."""
        conf = self.app.conf
        if self.broker_kind.anonymous and not conf.first("task_default_exchange"):
            return Exchange(ANONYMOUS, conf.task_default_exchange_type)
        return Exchange(conf.task_default_exchange, conf.task_default_exchange_type)

    @property
    def autoexchange(self) -> Callable[[str], Exchange | None] | None:
        """Of queues that Celery makes by itself. None is Celery's own way: an exchange a queue."""
        return _no_exchange if self.broker_kind.anonymous else None

    # Routes

    def flush_routes(self) -> None:
        """The user's routes first, then the contract's."""
        super().flush_routes()  # type: ignore[misc]
        self._rtable = [*self._rtable, self._route]

    def _route(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None
    ) -> dict[str, str] | None:
        """A Celery router. None leaves the default queue to Celery."""
        headers = options.get("headers")
        router = self.task_router
        if read_flags(headers, kwargs).priority_task:
            return {"queue": router.settings.priority_queue}
        task = task or self.app._tasks.get(name)
        queue = router.specific_queue(name, headers, getattr(task, HEADER, None))
        return {"queue": queue} if queue else None

    def own_queue(self, name: str, args: Any, kwargs: Any, headers: Mapping[str, Any], task: Any) -> str:
        """Where a message on the priority queue belongs: its route without the flag, the user's routes first.

        Raises:
            RequirementError: a requirement can't be understood.
        """
        amqp: Any = self
        settings = settings_of(self.app)
        for user_route in amqp.routes[:-1]:
            found = amqp.router.query_router(user_route, name, args, kwargs, {"headers": headers}, task)
            queue = found.get("queue") if isinstance(found, Mapping) else found
            chosen = getattr(queue, "name", queue)
            if chosen and chosen != settings.priority_queue:
                return str(chosen)
        return self.task_router.own_queue(name, headers, getattr(task, HEADER, None))

    # Sending

    def _create_task_sender(self) -> Callable[..., Any]:
        refuse_pickle(self.app.conf)
        send: Callable[..., Any] = super()._create_task_sender()  # type: ignore[misc]
        publisher, settings = Publisher(self), settings_of(self.app)

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if (batch := batch_of(producer)) is not None:
                return batch.collect(publisher, name, message, options)
            prepared = publisher.prepare(name, message, options)
            terms = publisher.terms(name, message, prepared)
            if terms is not None:
                producer = TermsProducer(producer, terms, settings)
            with publishing(self.app, producer, message.headers) as guarded:
                return send(guarded, name, message, **prepared)

        return send_task_message


def _no_exchange(_queue: str) -> None:
    return None


@lru_cache(maxsize=16)
def amqp_class(base: Any) -> Any:
    """`base`, a subclass of `celery.app.amqp.AMQP`, with the contract before it."""
    return type(f"Celeray{base.__name__}", (AMQPMixin, base), {"__doc__": AMQPMixin.__doc__})
