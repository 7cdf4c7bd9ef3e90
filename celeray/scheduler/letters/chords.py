"""Chords with a failed member: what is kept of them, and how a member that is sent again opens its chord.

When a member has failed for good, Celery tells the body `ChordError`, deletes the chord's size and lets the rest
expire. So from a member's first failure on a record of the chord is kept in the result backend, as long as letters are
(lua/chord_part.lua): its size and the parts of all members that succeed, those before and those to come. The body's
signature is in the member's own message. The first run of a message that was sent again (its tag says so) makes
Celery's own keys from the record, without the parts of members that failed; from there on Celery counts, joins and
publishes the body as ever, and a retry of the member needs nothing more.

Nothing is read or written for a task without a chord; a part of a chord costs no call besides Celery's own.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from celery import states
from celery.backends import redis as stock
from celery.exceptions import ChordError
from kombu.utils.encoding import bytes_to_str

from celeray.scheduler.chord_claims import CLAIM_POLL_S
from celeray.scheduler.fenced_results import EPOCH
from celeray.scheduler.installed import installed_on
from celeray.scheduler.keys import Keys
from celeray.scheduler.revoking import never_published
from celeray.scheduler.transport.scripts import Script

logger = logging.getLogger(__name__)

RECORD_MARGIN_S = 3600
"""A record outlives its letter: the letter is parked after the part was counted, and forgotten by a keeper's round."""
_SUFFIXES = (".j", ".t", ".s", ".d", "", ".c")
"""Of Celery's keys of a group: parts, difference, size, ids, group, claim."""

_part: ContextVar[str] = ContextVar("celeray_chord_part", default="done")
"""What chord_part.lua is told of the part that is being counted."""


def reopen_chords(task: Any, request: Any) -> None:
    """Open the chords that wait for the outcome of a request. Again changes nothing.

    Raises:
        redis.RedisError: the result backend did not answer, and was tried as long as for storing a result.
    """
    reopen = getattr(task.backend, "reopen_chord", None)
    if reopen is not None:
        for group_id, member in memberships(request):
            reopen(group_id, member)


def memberships(request: Any) -> Iterator[tuple[str, str]]:
    """Group id and member, TASK:INDEX, of each chord that counts what becomes of the request: its own, and those of its
    chain, whose parts Celery counts as failed when a step before them fails (`_fail_chain` in celery/backends/base.py).
    """
    if request.chord and request.group:
        yield request.group, _member(request.id, request.group_index)
    steps = deque(request.chain or ())
    while steps:
        step = steps.popleft()
        options = step.get("options") or {} if isinstance(step, Mapping) else {}
        group_id, task_id = options.get("group_id"), options.get("task_id")
        if options.get("chord") and group_id and task_id:
            yield group_id, _member(task_id, options.get("group_index"))
        if isinstance(step, Mapping) and step.get("subtask_type") == "chord":
            steps.append((step.get("kwargs") or {}).get("body"))


def _member(task_id: str, index: Any) -> str:
    return f"{task_id}:{'+inf' if index is None else index}"


class ReopeningMixin:
    """Goes before a Celery Redis backend, after its fences."""

    app: Any
    client: Any

    @cached_property
    def _record_ttl_s(self) -> int:
        """How long the record of a chord is kept. 0: none is, since failed tasks leave no letters."""
        installed = installed_on(self.app)
        if installed is None or not installed.settings.failed_task_letters:
            return 0
        return installed.settings.letter_retention_s + RECORD_MARGIN_S

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> Any:
        """As Celery's."""
        backend: Any = super()
        token = _part.set({states.FAILURE: "dead", states.REVOKED: "gone"}.get(state, "done"))
        try:
            return backend.on_chord_part_return(request, state, result, **kwargs)
        finally:
            _part.reset(token)

    @cached_property
    def _chord_part_return_script(self) -> Any:
        if not self._record_ttl_s:
            return super()._chord_part_return_script  # type: ignore[misc] # of the backend

        def count(keys: Sequence[Any], args: Sequence[Any], client: Any) -> Any:
            # Celery's keys are those of one group, with suffixes of one length.
            group_id = self._group_of(keys[0])
            every = [*keys, *self._record_keys(group_id), self._group_key(group_id, EPOCH)]
            return _script("chord_part")(client, every, [*args, _part.get(), self._record_ttl_s])

        return count

    @cached_property
    def _chord_cleanup_script(self) -> Any:
        if not self._record_ttl_s:
            return super()._chord_cleanup_script  # type: ignore[misc] # of the backend

        def clean(keys: Sequence[Any], args: Sequence[Any], client: Any) -> Any:
            record = self._record_keys(self._group_of(keys[0]))
            return _script("chord_cleanup")(client, [*keys, *record], args)

        return clean

    def _handle_group_chord_error(self, group_callback: Any, backend: Any, exc: Any = None) -> Any:
        """As Celery's, but of a failed member no task of the body is revoked: it could not be run again."""
        stock_backend: Any = super()
        failed_member = isinstance(exc, ChordError) and exc.__cause__ is not None
        ids = _task_ids(group_callback) if failed_member and self._record_ttl_s else frozenset()
        token = never_published.set(ids)
        try:
            return stock_backend._handle_group_chord_error(group_callback, backend, exc)
        finally:
            never_published.reset(token)

    def reopen_chord(self, group_id: str, member: str) -> None:
        """Open a chord for a member that is run again. Waits while its body is being told.

        Raises:
            redis.RedisError: as `reopen_chords`.
        """
        backend: Any = self
        keys = [self._group_key(group_id, suffix) for suffix in _SUFFIXES]
        keys += [*self._record_keys(group_id), self._group_key(group_id, EPOCH)]
        args = [member, int(backend._chord_zset), int(backend.chord_expires or 0)]
        args += [
            int(backend._chord_result_expires or 0),
            self._record_ttl_s or RECORD_MARGIN_S,
            uuid.uuid4().hex,
        ]

        def verdict() -> str:
            return bytes_to_str(backend.ensure(_script("chord_reopen"), (backend.client, keys, args)))

        # A claim lives for seconds only, and is given up when the body was told.
        while (found := verdict()) == "claimed":
            time.sleep(CLAIM_POLL_S)
        if found == "joined":
            self._restore_results(group_id)
        if found != "unknown":
            logger.info("chord %s is open for its member %s, which is run again", group_id, member)

    def _restore_results(self, group_id: str) -> None:
        """The members' results, which Celery joins where a header is more than a list of tasks.

        Those that are still there stay, and all live as long as the record.
        """
        backend: Any = self
        parts, lives_s = self._record_keys(group_id)[1], self._record_ttl_s or RECORD_MARGIN_S
        read = (backend.client.zrange if backend._chord_zset else backend.client.lrange)(parts, 0, -1)
        keys: list[Any] = []
        with backend.client.pipeline(transaction=False) as pipe:
            for raw in read:
                _, task_id, state, result = backend.decode(raw)
                meta = backend._get_result_meta(result=result, state=state, traceback=None, request=None)
                keys.append(backend.get_key_for_task(task_id))
                pipe.set(keys[-1], backend.encode(meta | {"task_id": task_id}), nx=True, ex=lives_s)
                pipe.ttl(keys[-1])
            ttls = pipe.execute()[1::2]
            for key, ttl in zip(keys, ttls, strict=True):
                if 0 <= ttl < lives_s:
                    pipe.expire(key, lives_s)
            pipe.execute()

    def _record_keys(self, group_id: str) -> list[str]:
        backend: Any = self
        keys: Keys = backend.own_keys
        return keys.chord(group_id)

    def _group_key(self, group_id: str, suffix: str) -> Any:
        backend: Any = self
        return backend.get_key_for_group(group_id, suffix)

    def _group_of(self, key: Any) -> str:
        backend: Any = self
        prefix = bytes_to_str(backend.group_keyprefix)
        return bytes_to_str(key).removeprefix(prefix)[: -len(_SUFFIXES[0])]


def _task_ids(body: Any) -> frozenset[str]:
    """Of a group, as `GroupResult.revoke` names them."""
    try:
        return frozenset(result.id for result in body.freeze().results)
    except Exception:  # noqa: BLE001 - Celery does the same next, and deals with it
        return frozenset()


@cache
def _script(name: str) -> Script:
    """Of lua/NAME.lua; where it adds to a script of Celery's, that one is the function `stock`, unchanged."""
    ours = (files(__package__) / "lua" / f"{name}.lua").read_text("utf-8")
    theirs = {"chord_part": stock.CHORD_PART_RETURN_LUA, "chord_cleanup": stock.CHORD_CLEANUP_LUA}.get(name)
    return Script(ours) if theirs is None else Script(f"local function stock()\n{theirs}\nend", ours)
