"""What is pushed when a letter is sent again: the message with its edits, and the list it goes to. Pure.

A letter that somebody put on the dead-letter queue goes to the route of its task: it came from a queue that nobody
consumes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.errors import RequirementError
from celeray.scheduler.keys import BROKER_PRIORITIES, Keys
from celeray.scheduler.letters.editing import Edits, RequestEdit, edit_request, edited
from celeray.scheduler.letters.envelope import Envelope, UnreadableLetterError, read_envelope, renewed
from celeray.scheduler.letters.record import Parked, field_of, place_of, unpacked
from celeray.scheduler.letters.tags import redriven_tag
from celeray.scheduler.priorities import to_broker
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.settings import Settings

UNKNOWN_LIST = "its list is unknown; name a queue"


class UnsendableLetterError(Exception):
    """A letter that is left where it is; says why."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A letter, ready to be pushed."""

    letter_id: str
    digest: str
    """SHA-1 of its record, so that the script sends what was read and nothing else."""
    list: bytes
    """Where its broker is no Redis: its queue, with the prefix of the keys."""
    message: bytes
    request: RequestEdit | None = None
    """None: its resource requirements are as they were."""
    published: bool = False
    """Its broker is no Redis, so it is made due, and published by who can."""


class Packer:
    """Makes the parcels of one redrive."""

    def __init__(
        self,
        keys: Keys,
        settings: Settings,
        *,
        queue: str | None = None,
        priority: int | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            queue: None: to the one that they came from.
            priority: of the API. None: at their own.
            request: goes over the resource requirements of each. None, or empty: as they are.
        """
        self._keys = keys
        self._settings = settings
        self._queue = queue
        self._priority = priority
        self._request = request
        self._router = TaskRouter(settings)

    def parcel(self, letter_id: str, raw: bytes) -> Parcel:
        """Of a letter's record.

        Raises:
            UnsendableLetterError: no worker could read it, nobody knows its queue, or its new request can't be.
        """
        try:
            return self._parcel(letter_id, raw)
        except UnreadableLetterError as error:
            raise UnsendableLetterError(f"unreadable: {error}") from error
        except RequirementError as error:
            raise UnsendableLetterError(f"request: {error}") from error

    def _parcel(self, letter_id: str, raw: bytes) -> Parcel:
        parked = unpacked(field_of(letter_id), raw)
        envelope, digest = read_envelope(parked.message), hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        own, step = own_place(parked, envelope, self._keys)
        queue = self._queue
        if queue is None and own == self._settings.dead_letter_queue:
            queue, step = self._route_of(envelope), _step(envelope.properties.get("priority"))
        if queue is None and self._priority is None and not self._request:
            message = renewed(envelope, redriven_tag())
            place = list_of(parked, envelope, self._keys)
            return Parcel(letter_id, digest, place, message, published=not parked.lowest_first)
        if (target := queue or own) is None:
            raise UnreadableLetterError(UNKNOWN_LIST)
        change = self._change(envelope, target)
        edits = Edits(queue, self._priority, change.headers if change else {}, parked.lowest_first)
        message = edited(envelope, redriven_tag(), edits)
        if not parked.lowest_first:
            there = f"{self._keys.prefix}{target}".encode()
            return Parcel(letter_id, digest, there, message, change, published=True)
        if self._priority is not None:
            step = to_broker(self._priority, lowest_first=True)
        return Parcel(letter_id, digest, self._keys.queue_lists(target)[step].encode(), message, change)

    def _change(self, envelope: Envelope, queue: str) -> RequestEdit | None:
        if not self._request:
            return None
        return edit_request(envelope.document["headers"], self._request, queue, self._router)

    def _route_of(self, envelope: Envelope) -> str:
        """Where a message of the dead-letter queue belongs: the queue that it names itself, else by its task."""
        settings, headers = self._settings, envelope.document["headers"]
        named = envelope.properties["delivery_info"].get("routing_key")
        if named in settings.queues and named != settings.dead_letter_queue:
            return str(named)
        task = headers.get("task")
        if not isinstance(task, str) or not task:
            raise UnsendableLetterError("no route: it names no task")
        found = self._router.specific_queue(task, headers)
        if found is None:
            raise UnsendableLetterError(f"no route: the settings route no task {task!r}; name a queue")
        return found


def list_of(parked: Parked, envelope: Envelope, keys: Keys) -> bytes:
    """The list that a letter's message came from.

    Raises:
        UnreadableLetterError: nobody knows.
    """
    if place_of(parked, keys)[0] is not None:
        return parked.list
    queue, step = own_place(parked, envelope, keys)
    if queue is None:
        raise UnreadableLetterError(UNKNOWN_LIST)
    return keys.queue_lists(queue)[step].encode()


def own_place(parked: Parked, envelope: Envelope, keys: Keys) -> tuple[str | None, int]:
    """Queue and broker priority. None: nobody knows."""
    queue, step = place_of(parked, keys)
    if queue is not None:
        return queue, step
    # What a stock worker held names no list.
    info, step = envelope.properties["delivery_info"], _step(envelope.properties.get("priority"))
    named = info.get("routing_key")
    return (named if isinstance(named, str) and named and not info.get("exchange") else None), step


def _step(priority: Any) -> int:
    """The list of a broker priority, with the ten steps that celeray sets."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        return 0
    return min(BROKER_PRIORITIES[-1], max(0, priority))
