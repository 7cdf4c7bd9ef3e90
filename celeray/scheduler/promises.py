"""What celeray promises, and which settings of an app break it. A broken promise is a warning, never an override.

Pickle alone is refused: it runs code of whoever can write to the broker.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from celeray.scheduler.broker import keeps_letters, masked
from celeray.scheduler.errors import CelerayWarning, ConfigurationError
from celeray.scheduler.keys import BROKER_PRIORITIES
from celeray.scheduler.settings import Settings
from celeray.scheduler.topology import BrokerKind

PICKLES = frozenset({"pickle", "application/x-python-serialize"})
"""Names of the serializer that runs code of whoever writes to the broker."""
_ACCEPTED = ("accept_content", "result_accept_content")
_WRITTEN = ("task_serializer", "result_serializer", "event_serializer")


class BrokenPromise(NamedTuple):
    """A setting as the user has it, and what it costs."""

    setting: str
    value: Any
    promise: str

    def __str__(self) -> str:
        return f"{self.setting}={self.value!r}: {self.promise}"


def refuse_pickle(conf: Any) -> None:
    """Check an app's conf.

    Raises:
        ConfigurationError: a setting writes or accepts pickle; names it.
    """
    for setting in (*_ACCEPTED, *_WRITTEN):
        value = conf.get(setting)
        names = value if isinstance(value, list | tuple | set | frozenset) else [value]
        if PICKLES.intersection(name for name in names if isinstance(name, str)):
            raise ConfigurationError(
                f"{setting}={value!r}: pickle runs code of whoever can write to the broker; use msgpack and json only"
            )


def refuse_policies_without_redis(conf: Any, kind: BrokerKind, settings: Settings) -> None:
    """Check an app's conf with its settings.

    Raises:
        ConfigurationError: the broker is AMQP, and no Redis could keep what retry policies send again.
    """
    if kind is BrokerKind.AMQP and settings.retry_policies and not keeps_letters(conf):
        raise ConfigurationError(
            f"retry_policies={settings.retry_policies!r}: on an AMQP broker what is sent again waits in the Redis of "
            f"the result backend, and result_backend={_masked(conf)!r} is none; give the app a redis:// one"
        )


def refuse_letters_without_redis(conf: Any, kind: BrokerKind, settings: Settings) -> None:
    """Check what a worker starts with.

    Raises:
        ConfigurationError: the broker is AMQP, and no Redis could keep the letters that the settings want.
    """
    refuse_policies_without_redis(conf, kind, settings)
    if kind is BrokerKind.AMQP and settings.failed_task_letters and not keeps_letters(conf):
        raise ConfigurationError(
            f"failed_task_letters=True: on an AMQP broker dead letters are kept in the Redis of the result backend, "
            f"and result_backend={_masked(conf)!r} is none; give the app a redis:// one, or set failed_task_letters "
            "to false"
        )


def _masked(conf: Any) -> str:
    return masked(str(conf.result_backend or ""))


def warn_of_broken(conf: Any, kind: BrokerKind, warned: set[str]) -> None:
    """Warn about every setting that breaks a promise and is not in `warned`, and note it there."""
    for broken in broken_promises(conf, kind):
        if broken.setting not in warned:
            warned.add(broken.setting)
            warnings.warn(f"{broken} (celeray leaves it as you set it)", CelerayWarning, stacklevel=2)


def broken_promises(conf: Any, kind: BrokerKind) -> list[BrokenPromise]:
    """Every setting of an app's conf that breaks a promise, in the order in which they are documented."""
    found = [
        BrokenPromise(setting, conf.get(setting), promise)
        for setting, broken, promise in _RULES
        if broken(conf.get(setting))
    ]
    if kind is BrokerKind.REDIS:
        found += _on_redis(conf)
    return found


_RULES = (
    (
        "task_acks_late",
        lambda value: not value,
        "a message is acknowledged before its task ends, so a task whose worker dies is lost",
    ),
    (
        "task_reject_on_worker_lost",
        lambda value: not value,
        "a task whose process dies is not run again, it fails",
    ),
    (
        "worker_prefetch_multiplier",
        lambda value: value != 1,
        "a worker holds messages that another one could run, and serves them in the order of their arrival, "
        "not of their priority",
    ),
)


def _on_redis(conf: Any) -> Iterator[BrokenPromise]:
    options = conf.get("broker_transport_options") or {}
    steps = options.get("priority_steps")
    if steps is not None and list(steps) != list(BROKER_PRIORITIES):
        yield BrokenPromise(
            "broker_transport_options.priority_steps",
            steps,
            f"the ten priorities need {list(BROKER_PRIORITIES)}; messages on the other lists are never fetched",
        )
    if options.get("ack_emulation") is False:
        yield BrokenPromise(
            "broker_transport_options.ack_emulation",
            False,
            "a message that a worker holds is lost when it dies",
        )
    if conf.get("worker_disable_prefetch"):
        yield BrokenPromise(
            "worker_disable_prefetch",
            True,
            "kombu has fetched the next message already and holds it where nobody restores it from",
        )
    yield from _queues_on_redis(conf)


def _queues_on_redis(conf: Any) -> Iterator[BrokenPromise]:
    if exchange := conf.get("task_default_exchange"):
        yield BrokenPromise("task_default_exchange", exchange, _LOST_BINDING)
    for name, exchange, expires in _declared(conf.get("task_queues")):
        if exchange:
            yield BrokenPromise(f"task_queues.{name}.exchange", exchange, _LOST_BINDING)
        if expires is not None:
            yield BrokenPromise(
                f"task_queues.{name}.expires", expires, "an idle queue that expires loses the messages in it"
            )


_LOST_BINDING = (
    "a named exchange delivers by a key in Redis, and without that key messages are lost; name no exchange"
)


def _declared(queues: Any) -> Iterator[tuple[str, str, Any]]:
    """Name, exchange and expiry of the user's queues, which may be kombu queues or mappings by name."""
    items = queues.items() if isinstance(queues, Mapping) else ((queue.name, queue) for queue in queues or ())
    for name, queue in items:
        if isinstance(queue, Mapping):
            yield name, str(queue.get("exchange") or ""), queue.get("expires")
        else:
            exchange = queue.exchange.name if queue.exchange else ""
            yield name, exchange, queue.expires
