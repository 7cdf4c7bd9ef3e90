"""A chord with a dead member, on whatever runs it: sent again when Celery has forgotten the chord, it completes."""

from __future__ import annotations

import base64
import gc
import json
from typing import Any

import redis
from celery import Celery, chord
from celery.exceptions import ChordError

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.parcels import Packer
from celeray.scheduler.letters.redrive import Redrive, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, Letters
from celeray.scheduler.settings import Settings
from tests.integration.bridge.live import until


def dead_member_completes_its_chord(
    app: Celery, url: str, needs: str, gather: str, *, dead: tuple[int, ...]
) -> None:
    """
    Args:
        needs: a task that fails until a key is there, and then gives its second argument.
        gather: a task that is given their values.
        dead: those of the five members that fail at first.
    """
    _complete(app, url, needs, gather, dead)
    # Results know each other, and unsubscribe when they are collected: while the server is there.
    gc.collect()


def _complete(app: Celery, url: str, needs: str, gather: str, dead: tuple[int, ...]) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("ready", 1)
        client.delete("missing")
        keys = ["missing" if number in dead else "ready" for number in range(5)]
        header = [app.signature(needs, (key, number)) for number, key in enumerate(keys)]
        sent = chord(header, app.signature(gather), app=app)()
        until(lambda: sent.state == "FAILURE", "its error is told")
        assert isinstance(app.AsyncResult(sent.id).result, ChordError)
        group_id, members = sent.parent.id, [result.id for result in sent.parent.results]
        letters = Letters(client, Keys())
        found = until(
            lambda: _letters_of(letters, {members[number] for number in dead}), "its members are parked"
        )
        assert {letter.exception for letter in found} == {"LookupError"}
        _expire(client, group_id, [*members, sent.id])
        client.set("missing", 1)
        for letter in found:
            _send_once(letters, letter.id)
        body = app.AsyncResult(sent.id)
        until(lambda: body.state == "SUCCESS", "the chord completes")
        assert body.result == [0, 1, 2, 3, 4]
        assert client.keys(f"celeray:chord:{group_id}*") == []


def _send_once(letters: Letters, letter_id: str) -> None:
    """Pressed twice; what is sent is what was parked, but for its tag."""
    detail = letters.get(letter_id)
    assert detail is not None
    original = base64.b64decode(detail.message_base64)
    redrive, terms = Redrive(letters, Settings()), RedriveTerms()
    (raw,) = letters.records([letter_id])
    assert raw is not None
    sent = Packer(letters.keys, Settings()).parcel(letter_id, raw).message
    tags = [json.loads(message)["properties"]["delivery_tag"].encode() for message in (original, sent)]
    assert sent == original.replace(tags[0], tags[1])
    assert [redrive.run(Selection(ids=(letter_id,)), terms, by="ops").sent for _ in range(2)] == [1, 0]


def _letters_of(letters: Letters, task_ids: set[str]) -> list[Any]:
    found = [letter for letter in letters.page(LetterFilter(), 500).letters if letter.task_id in task_ids]
    return found if len(found) == len(task_ids) else []


def _expire(client: Any, group_id: str, task_ids: list[str]) -> None:
    """As the time to live of results and chords does it."""
    gone = [f"celery-task-meta-{task_id}" for task_id in task_ids]
    gone += [f"celeray:fence:{task_id}" for task_id in task_ids]
    client.delete(*gone, *client.keys(f"celery-taskset-meta-{group_id}*"))
