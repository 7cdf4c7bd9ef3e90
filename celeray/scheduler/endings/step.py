"""In every worker of an installed app: requests that end by a verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from celery.utils.imports import symbol_by_name
from celery.worker.consumer.tasks import Tasks

from celeray.scheduler.broker import broker_redis, masked
from celeray.scheduler.duties.old_letters import OldLetters
from celeray.scheduler.endings.letter_first import LetterFirst
from celeray.scheduler.endings.posting import Posting
from celeray.scheduler.endings.request import RetriedRequest, SettledRequest
from celeray.scheduler.endings.writing import Writer
from celeray.scheduler.installed import settings_of
from celeray.scheduler.keepers import server_time
from celeray.scheduler.letters.due import send_due
from celeray.scheduler.letters.outbox import Outbox
from celeray.scheduler.letters.producing import Producer
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.settings import Settings
from celeray.scheduler.topology import BrokerKind
from celeray.scheduler.transport.channel import Channel
from celeray.scheduler.transport.leases import LeaseBook

logger = logging.getLogger(__name__)

EXCESS = 1.1
"""A keeper looks once a minute; a worker forgets letters only where none does."""


class SettleRuns(bootsteps.StartStopStep):
    """Consumer step. Celery asks each task for the class of its requests when the consumer starts, which is later."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        settings, kind = settings_of(consumer.app), consumer.app.amqp.broker_kind
        self._settings = settings
        self._first = LetterFirst.of(consumer)
        self._posting: Posting | None = None
        writer = Writer(
            settings, sends_again=kind is BrokerKind.REDIS or self._first is not None, first=self._first
        )
        if not writer.sends_again:
            logger.warning(
                "broker %s and result_backend=%r: failed tasks leave no dead letters, and retry_policies=%r retry "
                "nothing; only a Redis keeps messages for later",
                kind.value,
                masked(str(consumer.app.conf.result_backend or "")),
                settings.retry_policies,
            )
        for task in list(consumer.app.tasks.values()):
            settle_runs_of(task, writer)

    def start(self, consumer: Any) -> None:
        """Does for a team without a keeper, with each renewal of the leases, what may not be left undone: what is due
        is sent, and letters that are far too many are forgotten. Where the broker is no Redis a thread does both."""
        if self._first is not None:
            self._post(consumer.app, self._first)
            return
        channel = consumer.task_consumer.channel
        if not isinstance(channel, Channel):
            return
        book = channel.leases
        if self._settings.retry_policies:
            book.on_renewed.append(partial(spared, _send_due, book, self._settings))
        if self._settings.failed_task_letters:
            book.on_renewed.append(partial(spared, _forget_excess, book, self._settings))

    def stop(self, consumer: Any) -> None:
        """What is being published is published first."""
        posting, self._posting = self._posting, None
        if posting is not None:
            posting.stop()

    def _post(self, app: Any, first: LetterFirst) -> None:
        # Again with each connection that is lost and made anew.
        if self._posting is None:
            client, keys, settings = broker_redis(app), first.keys, self._settings
            self._posting = Posting(
                Outbox(client, keys, Producer(app)),
                OldLetters(
                    Letters(client, keys), retention_s=settings.letter_retention_s, most=settings.letters_max
                ),
            )
            self._posting.start()


def spared(duty: Callable[[LeaseBook, Settings], None], book: LeaseBook, settings: Settings) -> None:
    """A renewal that goes on whatever becomes of the duty, which the next one does again."""
    try:
        duty(book, settings)
    except Exception as error:  # noqa: BLE001 - restoring expired leases comes after it, in the same thread
        logger.warning("letters could not be looked after, trying on: %r", error)


def _send_due(book: LeaseBook, settings: Settings) -> None:
    send_due(book.client, book.keys, dedup_hold_max_s=settings.dedup_hold_max_s)


def _forget_excess(book: LeaseBook, settings: Settings) -> None:
    letters = Letters(book.client, book.keys)
    if letters.count() <= EXCESS * settings.letters_max:
        return
    duty = OldLetters(letters, retention_s=settings.letter_retention_s, most=settings.letters_max)
    duty.run_once(server_time(book.client))


def settle_runs_of(task: Any, writer: Writer) -> None:
    """Give a task's requests their endings. Again replaces the writer."""
    base: Any = symbol_by_name(task.Request)
    if issubclass(base, SettledRequest):
        base = base.celeray_base
    ours = SettledRequest if writer.policy_of(task.name) is None else RetriedRequest
    names = {"celeray_writer": writer, "celeray_base": base, "__doc__": base.__doc__}
    task.Request = type(base.__name__, (ours, base), names)
