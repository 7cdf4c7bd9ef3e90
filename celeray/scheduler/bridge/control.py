"""Remote control of a bridge, besides Celery's own commands: `celery -A proj.app inspect placement_cycle`.

`install` imports this on both sides, since the command line refuses names that its own process does not know.
"""

from __future__ import annotations

import json
from typing import Any

from celery.worker.control import inspect_command

from celeray.scheduler.placement.recording import dump_cycle


@inspect_command()
def placement_cycle(state: Any, **_: Any) -> dict[str, Any]:
    """The whole input of a bridge's last placement cycle, which `load_cycle` and `place` replay."""
    pool = state.consumer.pool
    dispatcher = getattr(pool, "dispatcher", None)
    if dispatcher is None:
        return {"error": f"this worker's pool is {type(pool).__module__}: only a bridge places tasks"}
    if dispatcher.last_cycle is None:
        return {"error": "no task has waited for a placement yet"}
    cycle: dict[str, Any] = json.loads(dump_cycle(dispatcher.last_cycle))
    return cycle
