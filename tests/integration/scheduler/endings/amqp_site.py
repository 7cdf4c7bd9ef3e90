"""An app and its worker on an AMQP broker, with celeray's own keys in the Redis of the result backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu import Connection, Queue

import celeray
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.outbox import Outbox
from celeray.scheduler.letters.producing import Producer
from celeray.scheduler.letters.record import LetterState
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.settings import Settings
from tests.integration.bridge.live import until
from tests.integration.scheduler.endings.conftest import QUEUE, LiveWorker


def producer(broker: str, backend: str) -> Celery:
    """An app that has no tasks, with celeray on it."""
    app = Celery("producer", broker=broker, backend=backend, set_as_current=False)
    app.conf.broker_connection_retry = False
    celeray.install(app, Settings())
    return app


class AmqpWorker(LiveWorker):
    """`celery worker` of tests.apps.endings. Remote control goes over the broker."""

    def __init__(self, broker: str, backend: str, folder: Path, *args: str, name: str = "ends", **env: str):
        super().__init__(
            backend,
            folder,
            *args,
            name=name,
            **{"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": backend, **env},
        )
        self._control = producer(broker, backend)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return bool(self._control.control.ping([self.node], timeout=0.5))

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text()[-6000:]


class AmqpSite:
    """What a test looks at."""

    def __init__(self, broker: str, backend: str) -> None:
        self.app = producer(broker, backend)
        self.broker, self.backend = broker, backend
        self.client: Any = redis.Redis.from_url(backend)
        self.letters = Letters(self.client, Keys())

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(f"ends.{task}", args, queue=options.pop("queue", QUEUE), **options)

    def value(self, result: Any) -> Any:
        """What a task returned."""
        until(lambda: self.app.AsyncResult(result.id).state == "SUCCESS", "it succeeds")
        return self.app.AsyncResult(result.id).result

    def outbox(self) -> Outbox:
        return Outbox(self.client, Keys(), Producer(self.app))

    def letter(self, task_id: str, state: LetterState = LetterState.PARKED) -> Any:
        """With everything; waits for it."""
        found = until(
            lambda: [one for one in self.letters.walk(state) if one.task_id == task_id],
            f"{task_id} is {state}",
        )
        assert len(found) == 1
        return self.letters.get(found[0].id)

    def ready(self, queue: str = QUEUE) -> int:
        """Messages on a queue that nobody holds. The queue is declared where it is not there."""
        with Connection(self.broker) as connection, connection.channel() as channel:
            declared: Queue = self.app.amqp.queues[queue](channel)
            return int(declared.queue_declare(passive=False).message_count)

    def purge(self, queue: str = QUEUE) -> None:
        with Connection(self.broker) as connection, connection.channel() as channel:
            declared = self.app.amqp.queues[queue](channel)
            declared.declare()
            declared.purge()

    @contextmanager
    def taken(self, queue: str = QUEUE) -> Iterator[Any]:
        """One message of a queue, held and not acknowledged; then the connection is cut."""
        with Connection(self.broker) as connection, connection.channel() as channel:
            declared = self.app.amqp.queues[queue](channel)
            declared.declare()
            yield until(lambda: declared.get(no_ack=False), f"a message on {queue}")

    def close(self) -> None:
        # Results unsubscribe when they are forgotten, and some are kept until after Redis has ended.
        subscriptions = self.app.backend.result_consumer
        subscriptions.stop()
        subscriptions._pubsub = None
        self.client.close()
        self.app.close()
