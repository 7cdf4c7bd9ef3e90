"""Messages as a stock producer writes them, in bulk: one real publish, repeated under new ids.

Preloading is no part of any figure, and a loop of `apply_async` would take longer than the drain.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import redis

_SCRATCH_QUEUE = "bench.template"
_CHUNK = 2_000


def preload(client: redis.Redis, task: Any, queue: str, count: int) -> None:
    """Put `count` messages of `task` on `queue`."""
    template, task_id, tag = _template(client, task, queue)
    for begin in range(0, count, _CHUNK):
        size = min(_CHUNK, count - begin)
        client.lpush(queue, *(_filled(template, task_id, tag) for _ in range(size)))


def _template(client: redis.Redis, task: Any, queue: str) -> tuple[str, str, str]:
    """A message that the stock producer wrote, with the two ids to replace in it."""
    task_id = str(uuid.uuid4())
    task.apply_async(queue=_SCRATCH_QUEUE, task_id=task_id)
    raw = client.rpop(_SCRATCH_QUEUE)
    assert isinstance(raw, bytes)
    text = raw.decode().replace(_SCRATCH_QUEUE, queue)
    return text, task_id, json.loads(text)["properties"]["delivery_tag"]


def _filled(template: str, task_id: str, tag: str) -> str:
    return template.replace(task_id, str(uuid.uuid4())).replace(tag, str(uuid.uuid4()))
