"""The watcher: every result that is stored, in the order of the result backend; and what can be read at the end."""

from __future__ import annotations

import json
import threading
from typing import Any

import redis

from tests.faults.history import History

PREFIX = "celery-task-meta-"


class ResultWatcher:
    """Celery publishes each result that it stores on a channel of the same name."""

    def __init__(self, url: str, history: History) -> None:
        self._client: Any = redis.Redis.from_url(url, socket_timeout=None)
        self._history = history
        self._pubsub = self._client.pubsub()
        self._thread = threading.Thread(target=self._run, name="faults-results", daemon=True)
        self._stopping = threading.Event()

    def start(self) -> ResultWatcher:
        self._pubsub.psubscribe(f"{PREFIX}*")
        # The reply to it: from now on nothing is missed.
        assert self._pubsub.get_message(timeout=10)["type"] == "psubscribe"
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._pubsub.close()
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._pubsub.get_message(timeout=0.1)
            if message is not None and message["type"] == "pmessage":
                self._note("result-stored", message["data"])

    def read_back(self, task_ids: list[str]) -> None:
        """Note which of these have a result."""
        keys = [f"{PREFIX}{task_id}" for task_id in task_ids]
        for raw in self._client.mget(keys) if keys else ():
            if raw is not None:
                self._note("result-seen", raw)

    def _note(self, event: str, raw: bytes) -> None:
        meta = json.loads(raw)
        result = meta.get("result")
        if meta.get("status") == "SUCCESS" and isinstance(result, dict) and "run" in result:
            self._history.note(event, id=meta["task_id"], run=result["run"], fence=result["fence"])
        elif meta.get("status") == "FAILURE" and event == "result-stored":
            self._history.note("result-failed", id=meta["task_id"], error=str(result)[:300])
