"""The submitter: publishes, and notes what it was told about each publication."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
from typing import Any

from celery import Celery, chord
from kombu.exceptions import OperationalError

from celeray.scheduler.errors import CelerayError
from tests.faults.application import Config, make_app
from tests.faults.history import History

PARTS = 3
CHORD_EVERY = 8
PUBLISH_ERRORS = (OperationalError, OSError)


class Submitter:
    """Publishes without retry, so that what it knows of each publication is certain. For one thread."""

    def __init__(
        self, config: Config, history: History, name: str, *, task: str = "faults.work", **conf: Any
    ) -> None:
        """
        Args:
            name: goes into its ids.
            conf: of its app.
        """
        self._history = history
        self._task = task
        self._numbers = itertools.count(1)
        self._queue = config.queue
        self._name = name
        self.app: Celery = make_app(config, main="submitter")
        self.app.conf.update({"task_publish_retry": False, **conf})

    def work(self, seconds: float = 0.0, **options: Any) -> str:
        """One piece of work, with a callback. Returns its id."""
        task_id = f"work-{self._name}-{next(self._numbers)}"
        signature = self.app.signature(self._task, args=(seconds,))
        callback = self.app.signature("faults.callback", queue=self._queue)
        self._submit(
            lambda: signature.apply_async(task_id=task_id, link=callback, queue=self._queue, **options),
            {task_id: {"role": "work"}},
        )
        return task_id

    def chord(self, seconds: float = 0.0) -> str:
        """Three parts and a body. Returns the body's id."""
        number = f"{self._name}-{next(self._numbers)}"
        body_id = f"body-{number}"
        parts = [f"part-{number}-{part}" for part in range(PARTS)]
        header = [
            self.app.signature("faults.part", args=(seconds,)).set(task_id=part, queue=self._queue)
            for part in parts
        ]
        body = self.app.signature("faults.body").set(task_id=body_id, queue=self._queue)
        roles: dict[str, dict[str, Any]] = {part: {"role": "part"} for part in parts}
        self._submit(
            lambda: chord(header, app=self.app)(body), {**roles, body_id: {"role": "body", "parts": parts}}
        )
        return body_id

    def _submit(self, publish: Any, what: dict[str, dict[str, Any]]) -> None:
        try:
            publish()
        except CelerayError as error:
            # Of ours: refused, nothing was published, unless the class says that it can't know.
            certain = not isinstance(error, PUBLISH_ERRORS)
            self._note("submit-fail" if certain else "submit-unknown", what, error)
        except PUBLISH_ERRORS as error:
            self._note("submit-unknown", what, error)
        else:
            self._note("submit-ok", what)

    def _note(self, event: str, what: dict[str, dict[str, Any]], error: Exception | None = None) -> None:
        for task_id, facts in what.items():
            self._history.note(event, id=task_id, **facts, **({"error": repr(error)[:200]} if error else {}))

    def close(self) -> None:
        # Results are subscribed to until they are collected, and their backend must answer then.
        gc.collect()
        self.app.close()


class Load:
    """Submits at a constant rate in a thread of its own until it is stopped."""

    def __init__(self, submitter: Submitter, *, rate: float, seconds: float = 0.1, seed: int = 1) -> None:
        """
        Args:
            rate: submissions a second; every eighth is a chord.
            seconds: the longest run; runs are spread evenly down to 0.
        """
        self._submitter = submitter
        self._rate = rate
        self._seconds = seconds
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults-load", daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop, and raise what the submitter did not expect."""
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the submitter hangs"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        next_at = time.monotonic()
        try:
            for number in itertools.count(1):
                seconds = self._random.uniform(0, self._seconds)
                if number % CHORD_EVERY == 0:
                    self._submitter.chord(seconds)
                else:
                    self._submitter.work(seconds)
                # After a stall it goes on at its rate, and does not make up for it.
                next_at = max(next_at + 1 / self._rate, time.monotonic() - 1 / self._rate)
                if self._stopping.wait(max(0.0, next_at - time.monotonic())):
                    return
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self._failure = error
