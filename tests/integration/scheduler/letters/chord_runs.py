"""Chords whose members are run one by one in this process, as a worker's child does, in whatever order a test wants."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import msgpack
import redis
from celery import Celery, states
from celery.app.trace import build_tracer
from kombu.serialization import loads

import celeray
from celeray.scheduler.fencing import LEASE
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.envelope import body_of
from celeray.scheduler.letters.redrive import Redrive, Redriven, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.settings import Settings


class ChordRuns:
    """An app with a task whose runs fail while they are told to, its queue, and the letters of what failed."""

    def __init__(self, url: str, **transport_options: Any) -> None:
        self.app = Celery("chords", broker=url, backend=url, set_as_current=False)
        self.app.conf.result_backend_transport_options = transport_options
        celeray.install(self.app, Settings(transport="leased"))
        self.redis: Any = redis.Redis.from_url(url)
        self.failing: set[str] = set()
        self.retrying: set[str] = set()
        """Parts of which a run that does not fail retries once."""
        self.letters = Letters(self.redis, Keys())
        self.parked: dict[str, bytes] = {}
        """The newest message of each part that failed, by its name."""
        self._fences = count(1)

        @self.app.task(shared=False, name="chords.part", bind=True)
        def part(task: Any, name: str, *_: Any) -> str:
            if name in self.failing:
                raise ValueError(name)
            if name in self.retrying and not task.request.retries:
                raise task.retry(countdown=0)
            return name

        @self.app.task(shared=False, name="chords.body")
        def body(results: list[Any], *_: Any) -> list[Any]:
            return results

        @self.app.task(shared=False, name="chords.after")
        def after(value: Any) -> Any:
            return ["after", value]

        @self.app.task(shared=False, name="chords.errback")
        def errback(*_: Any) -> None: ...

        self.part, self.body, self.after, self.errback = part, body, after, errback
        self.app.finalize()

    def queued(self) -> list[tuple[bytes, bytes]]:
        """List and bytes of each message that waits."""
        lists = sorted(self.redis.keys("cpu.analysis*"))
        return [(name, raw) for name in lists for raw in reversed(self.redis.lrange(name, 0, -1))]

    def waiting(self) -> list[str]:
        """Names of the parts that wait, or of the tasks where they are no parts."""
        return sorted(self._name(raw) for _, raw in self.queued())

    def run(self, *names: str) -> list[Any]:
        """Run one waiting message of each name. A part that fails is parked. Returns their states."""
        return [self._run(name) for name in names]

    def run_all(self) -> None:
        """Run what waits, and what follows, until nothing waits."""
        while waiting := self.waiting():
            self._run(waiting[0])

    def redrive(self, *names: str, **terms: Any) -> Redriven:
        """Send the letters of these parts again."""
        ids = tuple(json.loads(self.parked[name])["properties"]["delivery_tag"] for name in names)
        run = Redrive(self.letters, Settings()).run
        return run(Selection(ids=ids), RedriveTerms(**terms), by="ops")

    def expire(self, *patterns: str) -> None:
        """What Celery keeps of results and chords is gone, as after its time to live: all of it, or some."""
        for pattern in patterns or ("celery-task-meta-*", "celery-taskset-meta-*", "celeray:fence:*"):
            for key in self.redis.keys(pattern):
                self.redis.delete(key)

    def stored(self, task_id: str) -> tuple[str, Any]:
        meta = self.app.backend._get_task_meta_for(task_id)
        return meta["status"], meta["result"]

    def records(self) -> list[bytes]:
        """Keys of the chords that are kept."""
        found: list[bytes] = self.redis.keys("celeray:chord:*")
        return found

    def close(self) -> None:
        # Tracebacks in captured logs keep results, which unsubscribe when they are collected: after the server's end.
        consumer = self.app.backend.result_consumer
        consumer.subscribed_to.clear()
        consumer.stop()
        self.redis.close()
        self.app.close()

    def _name(self, raw: bytes) -> str:
        document, args, _ = _read(raw)
        task = document["headers"]["task"]
        return str(args[0] if task == "chords.part" else task.rpartition(".")[2])

    def _run(self, name: str) -> Any:
        key, raw = next(item for item in self.queued() if self._name(item[1]) == name)
        assert self.redis.lrem(key, -1, raw) == 1
        document, args, request = _read(raw)
        tag = document["properties"]["delivery_tag"]
        info = {"exchange": "", "routing_key": "cpu.analysis", LEASE: f"{next(self._fences)}:{tag}"}
        headers, properties = document["headers"], document["properties"]
        request = {**headers, **request, "delivery_info": info, "properties": properties}
        task = self.app.tasks[headers["task"]]
        tracer = build_tracer(task.name, task, app=self.app)
        outcome = tracer(headers["id"], args, request["kwargs"], request)
        state = states.SUCCESS if outcome.info is None else outcome.info.state
        if state == states.FAILURE:
            self._park(name, key, raw)
        return state

    def _park(self, name: str, key: bytes, raw: bytes) -> None:
        record = {"reason": "failed", "detail": "", "list": key, "at": 1000.0, "begun": 0, "message": raw}
        tag = json.loads(raw)["properties"]["delivery_tag"]
        self.redis.hset("celeray:parked", tag, msgpack.packb(record, use_bin_type=False))
        self.parked[name] = raw


def _read(raw: bytes) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """Document, args, and what of the body belongs to the request."""
    document = json.loads(raw)
    kinds = ("application/json", "application/x-msgpack")
    body = body_of(document)
    args, kwargs, embed = loads(body, document["content-type"], document["content-encoding"], accept=kinds)
    return document, args, {"args": args, "kwargs": kwargs, **embed}
