"""Worker step that `install` adds: puts the limiter before the pool, on a transport where it can keep limits."""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals
from celery.worker.consumer.tasks import Tasks

from celeray.scheduler.errors import ConfigurationError, LimitError
from celeray.scheduler.installed import settings_of
from celeray.scheduler.limits.gates import LimitRules
from celeray.scheduler.limits.keeper import POLL_S, LimitKeeper
from celeray.scheduler.limits.limiter import Limiter
from celeray.scheduler.limits.store import HEAL_S, LimitStore
from celeray.scheduler.settings import Settings
from celeray.scheduler.topology import BrokerKind


class LimitRuns(bootsteps.StartStopStep):
    """Consumer step. Nothing is in the way of the tasks of an app without limits."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        app, settings = consumer.app, settings_of(consumer.app)
        rules = LimitRules(settings.limits)
        limited = check_limits(app, settings, rules)
        leased = app.amqp.broker_kind is BrokerKind.REDIS and settings.transport == "leased"
        self._limiter: Limiter | None = None
        if not leased:
            return
        is_limited = bool(limited or settings.limits)
        # What waits for a limit that is declared no more is still called.
        self._limiter = Limiter(
            rules, consumer.on_task_request, consumer.timer, LimitKeeper(POLL_S if is_limited else HEAL_S)
        )
        self._app, self._is_limited = app, is_limited
        if is_limited:
            consumer.on_task_request = self._limiter

    def start(self, consumer: Any) -> None:
        limiter = self._limiter
        if limiter is None:
            return
        leases = consumer.task_consumer.channel.leases
        limiter.start(LimitStore(leases.client, leases.keys, heal_s=min(HEAL_S, leases.options.lease_s / 3)))
        if self._is_limited:
            signals.task_revoked.connect(self._on_revoked, weak=True)

    def stop(self, consumer: Any) -> None:
        signals.task_revoked.disconnect(self._on_revoked)
        if self._limiter is not None:
            self._limiter.stop()

    def _on_revoked(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        if self._limiter is not None and getattr(sender, "app", None) is self._app:
            self._limiter.on_revoked(sender, request)


def check_limits(app: Any, settings: Settings, rules: LimitRules) -> list[str]:
    """Names of the app's limited tasks.

    Raises:
        ConfigurationError: a task's option can't be understood; limits can't be kept on this broker or transport; or
            a task under a concurrency limit is acknowledged before it runs.
    """
    limited = []
    for name, task in sorted(app.tasks.items()):
        try:
            limits = rules.of_task(name, task)
        except LimitError as error:
            raise ConfigurationError(f"task {name}: {error}") from error
        if not limits:
            continue
        limited.append(name)
        _refuse_where_not_kept(app, settings, f"of task {name}")
        if not task.acks_late and any(limit.declaration.concurrency for limit in limits):
            raise ConfigurationError(
                f"task {name}: acks_late=False: a run under a concurrency limit is counted until its message is "
                "acknowledged; leave acks_late on, or give the task a rate only"
            )
    if settings.limits:
        _refuse_where_not_kept(app, settings, f"setting limits={sorted(settings.limits)}")
    return limited


def _refuse_where_not_kept(app: Any, settings: Settings, what: str) -> None:
    kind = app.amqp.broker_kind
    if kind is not BrokerKind.REDIS:
        raise ConfigurationError(f"limits ({what}): broker {kind.value}: only a Redis broker can keep them")
    if settings.transport != "leased":
        raise ConfigurationError(
            f"limits ({what}): transport={settings.transport!r}: expected 'leased', since the room of a dead "
            "worker is known by its lease"
        )
