"""The short way of a plain signature into a batch: what `apply_async` does, with what is the same for all read once.

A look into Celery's conf takes longer than most of what is done with it, and a call makes seven. Whatever is not plain
(a chain, a subclass that has its own `apply_async`, an unusual option) goes the long way; both make the same message.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.canvas import Signature
from celery.utils.functional import maybe_list
from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr

PLAIN_OPTIONS = frozenset(
    {
        "headers",
        "queue",
        "priority",
        "routing_key",
        "exchange",
        "serializer",
        "compression",
        "delivery_mode",
        "task_id",
        "link",
        "link_error",
        "ignore_result",
        "countdown",
        "eta",
        "shadow",
        "time_limit",
        "soft_time_limit",
    }
)
"""Of a signature's options; with another one it goes the long way."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is the same for all calls of a task."""

    task: Any
    """None: only its name is known here."""
    plain: bool
    options: dict[str, Any]
    """Of its declaration."""


class Assembler:
    """Of one batch."""

    def __init__(self, app: Any, batch: Any) -> None:
        conf = app.conf
        self._app, self._amqp, self._batch = app, app.amqp, batch
        self._sends_event, self._levels = conf.task_send_sent_event, conf.task_repr_maxlevels
        self._reply_to, self._origin = app.thread_oid, anon_nodename()
        self._known: dict[str, _Known] = {}
        # Inside of a task there are parents and inherited priorities; eagerly nothing is published.
        self._plain = (
            not conf.task_always_eager and app.current_worker_task is None and _sends_as_celery(app.send_task)
        )

    def takes(self, signature: Any) -> bool:
        """Whether the short way is open for a signature."""
        if (
            not self._plain
            or type(signature) is not Signature
            or not signature.options.keys() <= PLAIN_OPTIONS
        ):
            return False
        return self._facts(signature.task).plain

    def assemble(self, signature: Any, task_id: str, group_id: str, index: int) -> Any:
        """Put the message into the batch and return its `AsyncResult`. Raises what `apply_async` does."""
        name, known = signature.task, self._facts(signature.task)
        args, kwargs = signature.args or (), signature.kwargs or {}
        options = {**known.options, **signature.options}
        options.pop("task_id", None)
        task = known.task
        shadow = options.pop("shadow", None)
        if task is not None:
            if task.typing and (check := getattr(task, "__header__", None)) is not None:
                check(*args, **kwargs)
            shadow = shadow or task.shadow_name(args, kwargs, options)
            options.setdefault("ignore_result", task.ignore_result)
        ignored, links = options.pop("ignore_result", None), options.pop("link", None)
        link_errors, countdown, eta = (options.pop(key, None) for key in ("link_error", "countdown", "eta"))
        limits = [options.pop(key, None) for key in ("time_limit", "soft_time_limit")]
        options = self._amqp.router.route(options, name, args, kwargs, task)
        message = self._amqp.create_task_message(
            task_id,
            name,
            args,
            kwargs,
            countdown=countdown,
            eta=eta,
            group_id=group_id,
            group_index=index,
            callbacks=maybe_list(links),
            errbacks=maybe_list(link_errors),
            reply_to=self._reply_to,
            time_limit=limits[0],
            soft_time_limit=limits[1],
            create_sent_event=self._sends_event,
            shadow=shadow,
            ignore_result=ignored,
            argsrepr=self._repr(args, self._amqp.argsrepr_maxsize),
            kwargsrepr=self._repr(kwargs, self._amqp.kwargsrepr_maxsize),
            origin=self._origin,
            **options,
        )
        backend = self._app.backend if task is None else task.backend
        if not ignored:
            backend.on_task_call(self._batch, task_id)
        self._amqp.send_task_message(self._batch, name, message, **options)
        result = self._app.AsyncResult(task_id, backend=backend, task_name=name)
        result.ignored = ignored
        return result

    def _repr(self, value: Any, size: int) -> str:
        return short_repr(value, size) or saferepr(value, size, maxlevels=self._levels)

    def _facts(self, name: str) -> _Known:
        if (known := self._known.get(name)) is None:
            known = self._known[name] = _facts_of(self._app.tasks.get(name))
        return known


def short_repr(value: Any, size: int) -> str | None:
    """What Celery's `saferepr` makes of a few plain arguments, in a twentieth of the time. None: they are not plain.

    Args:
        value: args or kwargs.
        size: characters above which `saferepr` would cut.
    """
    mapping = type(value) is dict
    if len(value) > _SHORT or not (mapping or type(value) in (tuple, list)):
        return None
    for item in value.values() if mapping else value:
        kind = type(item)
        if kind not in _SCALARS and not (kind is str and _is_plain(item)):
            return None
    if mapping and not all(type(key) is str and _is_plain(key) for key in value):
        return None
    text = repr(value)
    return text if len(text) < min(size, _SHORT_CHARACTERS) else None


_SHORT, _SHORT_CHARACTERS = 8, 128
_SCALARS = frozenset((int, bool, type(None)))


def _is_plain(text: str) -> bool:
    """Without anything that one of the two would escape or cut."""
    return len(text) <= 32 and text.isascii() and text.replace("_", "a").isalnum()


def _facts_of(task: Any) -> _Known:
    if task is None:
        return _Known(None, True, {})
    cls = type(task)
    options = {key: value for key, value in task._get_exec_options().items() if value is not None}
    plain = (
        all(getattr(cls, name) is getattr(Task, name) for name in ("apply_async", "AsyncResult"))
        and task._dump_pydantic_arguments is None
        and not task.__v2_compat__
        and options.keys() <= PLAIN_OPTIONS
        and not (task.time_limit and task.soft_time_limit)
    )
    return _Known(task, plain, options)


def _sends_as_celery(send: Any) -> bool:
    """Whether nobody but celeray's own wrapper stands before Celery's `send_task`."""
    inner = send.args[1] if isinstance(send, partial) and len(send.args) == 2 else send
    return getattr(inner, "__func__", None) is Celery.send_task
