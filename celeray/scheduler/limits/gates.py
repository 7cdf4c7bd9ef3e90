"""Which limits a call is under, and the gate of each: one limit for one value of its key. Pure."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote
from uuid import UUID

from celeray.scheduler.errors import LimitError
from celeray.scheduler.limits.declaration import LimitDeclaration, declared

OPTION = "limits"
"""The task's option, and the setting."""
VALUE_MOST = 200
"""Characters of a key's value; of a longer one the digest counts."""
NO_VALUE = ""
"""All calls share it whose value is missing or can't be a key. An installed producer refuses them."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A declared limit. Its name is the pattern of the setting, or the task's own name."""

    name: str
    declaration: LimitDeclaration


@dataclass(frozen=True, slots=True)
class Call:
    """What of a call a key can pick from."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any]
    parameters: Sequence[str] = ()
    """Names of the task's parameters, so that an argument is found by its name also where it is passed by position."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a run has to pass."""

    id: str
    """In keys: printable ASCII without colons."""
    document: str
    """JSON of what the scripts and readers need to know of it."""
    holds: bool
    """Whether a run that passed has room here until it ends."""


class LimitRules:
    """The limits of one app."""

    def __init__(self, settings: Mapping[str, LimitDeclaration]) -> None:
        """
        Args:
            settings: by a pattern of task names. The pattern that is a task's full name stands for the task's option.
        """
        self._settings = settings
        self._known: dict[str, tuple[Limit, ...]] = {}
        self._parameters: dict[str, tuple[str, ...]] = {}

    def of_task(self, name: str, task: Any) -> tuple[Limit, ...]:
        """All limits of a task, those of the setting first.

        Args:
            task: None where the process does not know it; then only the setting counts.

        Raises:
            LimitError: the task's option can't be understood.
        """
        if (known := self._known.get(name)) is not None:
            return known
        found = [
            Limit(pattern, limit) for pattern, limit in self._settings.items() if fnmatchcase(name, pattern)
        ]
        option = getattr(task, OPTION, None)
        if option is not None and name not in self._settings:
            found.append(Limit(name, declared(option)))
        if task is not None:
            self._known[name] = tuple(found)
        return tuple(found)

    def call(
        self, name: str, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], headers: Mapping[str, Any]
    ) -> Call:
        """A call of a task, which may be None as in `of_task`."""
        if (parameters := self._parameters.get(name)) is None:
            parameters = parameters_of(task)
            if task is not None:
                self._parameters[name] = parameters
        return Call(args, kwargs, headers, parameters)


def check(limits: Sequence[Limit], call: Call) -> None:
    """Refuse a call that has no value for a key.

    Raises:
        LimitError: names the key, what the call has there, and what was expected.
    """
    for limit in limits:
        if (key := limit.declaration.key) is not None:
            key_text(key, picked(key, call))


def gates(limits: Sequence[Limit], call: Call) -> list[Gate]:
    """The gates of a call, in the order of its limits. What `check` would refuse goes through the one of `NO_VALUE`."""
    return [_gate(limit, _value(limit.declaration.key, call)) for limit in limits]


def picked(key: str, call: Call) -> Any:
    """The value of a call that a key names. None: it has none."""
    where, _, name = key.partition(".")
    if where == "headers":
        return call.headers.get(name)
    if where == "args":
        at = int(name)
        return call.args[at] if at < len(call.args) else None
    if name in call.kwargs:
        return call.kwargs[name]
    at = call.parameters.index(name) if name in call.parameters else len(call.args)
    return call.args[at] if at < len(call.args) else None


def key_text(key: str, value: Any) -> str:
    """A key's value as text.

    Raises:
        LimitError: it is missing, or nothing by which calls are told apart.
    """
    if isinstance(value, str | int | UUID) and value != "":
        return str(value)
    raise LimitError(key, value, "expected a text that is not empty, a whole number or a UUID")


def parameters_of(task: Any) -> tuple[str, ...]:
    """Names of a task's positional parameters, without the bound task itself."""
    try:
        found = inspect.signature(task.run).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(
        item.name for item in found if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
    )


def _value(key: str | None, call: Call) -> str | None:
    if key is None:
        return None
    try:
        return key_text(key, picked(key, call))
    except LimitError:
        return NO_VALUE


def _gate(limit: Limit, value: str | None) -> Gate:
    if value is not None and len(value) > VALUE_MOST:
        value = "sha256-" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
    declaration = limit.declaration
    known = {
        "name": limit.name,
        "value": value,
        "rate": declaration.rate,
        "interval_s": declaration.interval_s,
        "burst": declaration.runs_at_once,
        "concurrency": declaration.concurrency,
    }
    gate_id = _spelt(limit.name) if value is None else f"{_spelt(limit.name)}={_spelt(value)}"
    document = json.dumps({key: item for key, item in known.items() if item is not None})
    return Gate(gate_id, document, holds=declaration.concurrency is not None)


def _spelt(text: str) -> str:
    return quote(text, safe="*?[]@!+-", errors="replace")
