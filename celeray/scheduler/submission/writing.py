"""The one write of a submission."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from celeray.scheduler.errors import DuplicateTaskError
from celeray.scheduler.keys import Keys
from celeray.scheduler.settings import Settings
from celeray.scheduler.submission.durability import NotReplicatedError, replicas_that_have_it
from celeray.scheduler.submission.packing import Packed
from celeray.scheduler.submission.terms import Terms
from celeray.scheduler.transport.scripts import Argument, Script, refused_as_replica, script

PACKAGE = "celeray.scheduler.submission"


@dataclass(frozen=True, slots=True)
class Submission:
    """By what a repetition is known."""

    key: Callable[[Keys], str]
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Item:
    """A message and its terms."""

    packed: Packed
    terms: Terms


def write(channel: Any, items: Sequence[Item], submission: Submission, settings: Settings) -> list[str]:
    """Write all messages or none, and wait for replicas where the terms say so. Under the same name again: no effect.

    Args:
        channel: kombu's, on Redis.

    Returns:
        For each item the task id of the first submission; its own where it was written.

    Raises:
        DuplicateTaskError: an item that has links is a duplicate; nothing was written.
        NotReplicatedError: written, and not on as many replicas as asked.
        redis.ConnectionError: not written, or the reply was lost.
    """
    keys = Keys(prefix=channel.global_keyprefix)
    lists, args = _arguments(items, keys, submission, settings)
    replicas = max(item.terms.replicas for item in items)
    with _connection(channel.pool) as connection:
        reply = _evaluate(connection, script("submit", PACKAGE), lists, args)
        if refused := int(reply[0]):
            terms = items[refused - 1].terms
            raise DuplicateTaskError(terms.task, terms.task_id, reply[1].decode(), linked=True)
        if replicas:
            got = replicas_that_have_it(connection, replicas, settings.durable_timeout_s)
            if got < replicas:
                ids = [item.terms.task_id for item in items]
                raise NotReplicatedError(ids, replicas, got, settings.durable_timeout_s)
    return [first.decode() or item.terms.task_id for first, item in zip(reply[1:], items, strict=True)]


def release(client: Any, keys: Keys, holds: Sequence[str]) -> int:
    """Let go of dedup keys. Doing it twice changes nothing. Raises `redis.RedisError`."""
    return int(script("release", PACKAGE)(client, [keys.dedup()], list(holds)))


def _arguments(
    items: Sequence[Item], keys: Keys, submission: Submission, settings: Settings
) -> tuple[list[str], list[Argument]]:
    """KEYS and ARGV of submit.lua."""
    places: dict[str, str] = {}
    expires: dict[str, int] = {}
    rows: list[Argument] = []
    for item in items:
        packed, terms = item.packed, item.terms
        for name in packed.lists:
            places.setdefault(name, str(len(places) + 1))
        expires.update(packed.expires)
        rows += (
            packed.payload,
            ",".join([places[name] for name in packed.lists]),
            terms.task_id,
            terms.token,
            terms.digest,
            "1" if terms.until_ended else "0",
            terms.period_ms,
            terms.mode,
        )
    head: list[Argument] = [
        keys.dedup(),
        submission.key(keys),
        submission.ttl_s * 1000,
        settings.dedup_hold_max_s * 1000,
        len(expires),
    ]
    return list(places), [*head, *(part for pair in expires.items() for part in pair), *rows]


@contextmanager
def _connection(pool: Any) -> Iterator[Any]:
    """A connection that never connects anew by itself, since WAIT must follow its own writes."""
    connection = pool.get_connection()
    try:
        yield connection
    except (DuplicateTaskError, NotReplicatedError):
        raise
    except BaseException:
        # A reply may still be due on it.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _evaluate(connection: Any, called: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
    try:
        return _call(connection, called.command(keys, args))
    except redis.exceptions.NoScriptError:
        return _call(connection, called.command(keys, args, loaded=False))
    except redis.exceptions.ResponseError as error:
        if refused_as_replica(error):
            # A demoted master; kombu connects anew, and finds the new one.
            raise redis.exceptions.ConnectionError(str(error)) from error
        raise


def _call(connection: Any, command: Sequence[Argument]) -> Any:
    connection.send_packed_command(connection.pack_command(*command), check_health=False)
    return connection.read_response(disable_decoding=True)
