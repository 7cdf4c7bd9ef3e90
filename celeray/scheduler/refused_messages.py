"""In every worker of an installed app whose broker can keep it: what the worker can't run is parked, not dropped.

Celery logs such a message and then acknowledges or rejects it, and either way it is gone. Here Celery still does all
the rest (the log, the stored failure, events and signals), and its ack or reject parks the message instead: on the
leased transport in one script, and only while the lease is held; where the broker is no Redis by a letter, and then an
ack. Some malformed messages raise errors from Celery's handler that it does not expect, and that end the worker; those
are parked too.

Other messages (kombu's own Redis transport, fanout, an app without a Redis) are left to Celery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered
from celery.worker import state
from kombu.exceptions import ContentDisallowed, DecodeError

from celeray.scheduler.endings.letter_first import LetterFirst
from celeray.scheduler.etas import ScheduleEtas
from celeray.scheduler.letters.attempts import attempts_of
from celeray.scheduler.outcomes import History, Outcome, Park, settle
from celeray.scheduler.parked import ParkReason
from celeray.scheduler.transport.ending import Ending
from celeray.scheduler.transport.qos import QoS

DETAIL_MOST = 500
"""Characters of an exception's text that a record keeps."""
NO_TASK = "neither the headers nor the body name a task"
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError)
"""What Celery's handler raises on a message that lacks what it counts on."""


class ParkRefused(bootsteps.Step):
    """Consumer step. The consumer takes its callbacks when it starts, which is after every step is made."""

    # Outside of what reads etas, so that what a malformed message raises there is met as well.
    requires = (ScheduleEtas,)

    def create(self, parent: Any) -> None:
        Refusals(parent, LetterFirst.of(parent)).attach()


class Refusals:
    """Stands before what one consumer does with messages that it can't run."""

    def __init__(self, consumer: Any, first: LetterFirst | None = None) -> None:
        """
        Args:
            first: for messages of a broker that is no Redis.
        """
        self._consumer = consumer
        self._first = first
        self._create_handler: Callable[..., Any] = consumer.create_task_handler
        self._on_decode_error: Callable[..., Any] = consumer.on_decode_error
        self._on_invalid_task: Callable[..., Any] = consumer.on_invalid_task
        self._on_unknown_message: Callable[..., Any] = consumer.on_unknown_message
        self._on_unknown_task: Callable[..., Any] = consumer.on_unknown_task

    def attach(self) -> None:
        """On the instance, which Celery asks for its callbacks by name."""
        consumer = self._consumer
        consumer.create_task_handler = self.create_task_handler
        consumer.on_decode_error = self.on_decode_error
        consumer.on_invalid_task = self.on_invalid_task
        consumer.on_unknown_message = self.on_unknown_message
        consumer.on_unknown_task = self.on_unknown_task

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's handler of a message; what it raises on a malformed one of ours becomes a refusal."""
        handle = self._create_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            if not self._keeps(message):
                return handle(message)
            if self._first is not None and self._first.has_left(message):
                # Its worker died between the letter and the ack.
                return message.ack()
            if self._knows_task_of(message) and (fault := fault_of(message)) is not None:
                return self.on_invalid_task(None, message, InvalidTaskError(fault))
            try:
                return handle(message)
            except _MALFORMED as error:
                # Of a request that exists already the message is not to blame, and its run may have begun.
                if message.acknowledged or _became_request(message):
                    raise
                return self.on_invalid_task(None, message, error)

        return on_task_received

    def _keeps(self, message: Any) -> bool:
        return self._first is not None or is_leased(message)

    def _knows_task_of(self, message: Any) -> bool:
        name = message.headers.get("task")
        return isinstance(name, str) and name in self._consumer.strategies

    def on_decode_error(self, message: Any, exc: BaseException) -> Any:
        self._will_park(message, outcome_of_decoding(exc), exc)
        return self._on_decode_error(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> Any:
        disallowed = isinstance(exc, ContentDisallowed)
        self._will_park(message, Outcome.CONTENT_TYPE if disallowed else Outcome.BAD_MESSAGE, exc)
        return self._on_invalid_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> Any:
        self._will_park(message, Outcome.BAD_MESSAGE, InvalidTaskError(NO_TASK))
        return self._on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> Any:
        self._will_park(message, Outcome.UNKNOWN_TASK, NotRegistered(*exc.args))
        return self._on_unknown_task(body, message, exc)

    def _will_park(self, message: Any, outcome: Outcome, error: BaseException) -> None:
        """From now on an ack or a reject of the message parks it."""
        verdict = settle(outcome, History(), None)
        if not self._keeps(message) or not isinstance(verdict, Park):
            return
        reason, first = verdict.reason, self._first
        detail = detail_of(error, self._consumer.hostname)

        def park(*_: Any, **__: Any) -> None:
            if message.acknowledged:
                raise message.MessageStateError(f"Message already acknowledged with state: {message._state}")
            if first is None:
                message.channel.qos.park(message.delivery_tag, reason, detail)
                message._state = "REJECTED"
                return
            # Its own again, also where it was found out twice what is wrong with it.
            message.ack = message.reject = partial(type(message).ack, message)
            first.leave(message, _ending(reason, detail, message.headers))
            message.ack()

        message.ack = message.reject = park


def _ending(reason: ParkReason, detail: str, headers: Any) -> Ending:
    before = attempts_of(headers)
    exception = before.last.exception if before.last else ""
    return Ending(reason.value, detail, before.packed(), before.total, exception, None)


def is_leased(message: Any) -> bool:
    """Whether it was claimed by the leased transport and its lease is still on the book."""
    qos = getattr(message.channel, "qos", None)
    return isinstance(qos, QoS) and qos.leases.get(message.delivery_tag) is not None


def fault_of(message: Any) -> str | None:
    """What Celery would only notice where the task runs, or not expect. Of a message whose headers name a known task.

    None: nothing, or the body can't be decoded, which Celery's handler meets by itself.
    """
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001 - a decoder may raise anything
        return None
    return body_fault(payload)


def body_fault(payload: Any) -> str | None:
    """What is wrong with a decoded body of protocol 2. None: nothing that is looked for here."""
    if isinstance(payload, Mapping):
        # Protocol 2 in the headers, 1 in the body: Celery takes it.
        kwargs, embed = payload.get("kwargs", {}), None
        if "args" not in payload:
            return "the body is a mapping without args"
    elif isinstance(payload, list | tuple) and len(payload) == 3:
        _, kwargs, embed = payload
    else:
        return f"the body is not [args, kwargs, embed] but a {type(payload).__name__}"
    if not isinstance(kwargs, Mapping):
        return f"kwargs is no mapping but a {type(kwargs).__name__}"
    if embed and not isinstance(embed, Mapping):
        return f"embed is no mapping but a {type(embed).__name__}"
    return None


def outcome_of_decoding(error: BaseException) -> Outcome:
    """Whether a worker that knows or accepts more could have decoded the body, or none could."""
    if isinstance(error, ContentDisallowed):
        return Outcome.CONTENT_TYPE
    # Python's codecs raise LookupError itself for a name that they don't know; kombu wraps it.
    cause = error.__cause__ or error.__context__ if isinstance(error, DecodeError) else None
    if type(cause) is LookupError or (isinstance(error, LookupError) and not isinstance(error, DecodeError)):
        return Outcome.CONTENT_TYPE
    return Outcome.UNDECODABLE


def detail_of(error: BaseException, worker: str) -> str:
    """Type and text of the exception, and the worker's name; at most `DETAIL_MOST` characters of the first."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception's text is made by its own code
        text = "<no text>"
    shown = f"{type(error).__name__}: {text}"
    shown = shown if len(shown) <= DETAIL_MOST else f"{shown[: DETAIL_MOST - 3]}..."
    # A text may have lone surrogates of a body that JSON can write and UTF-8 can't.
    return f"{shown} [{worker}]".encode(errors="backslashreplace").decode()


def _became_request(message: Any) -> bool:
    return any(request.message is message for request in tuple(state.requests.values()))
