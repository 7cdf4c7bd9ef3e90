"""One row for each outcome of celeray/scheduler/outcomes.py: how it is provoked, and what must be left of it.

Plain workers and the bridge run the same rows: tests/integration/scheduler/endings/test_outcome_rows.py and
tests/integration/bridge/test_outcome_rows.py; those with a memory limit in test_host_memory.py beside them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.due import send_due
from celeray.scheduler.letters.record import LetterDetail, LetterState
from celeray.scheduler.letters.store import Letters
from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.parked import ParkReason
from tests.integration import refused_kinds
from tests.integration.bridge.live import until

PREFORK, BRIDGE = "prefork", "bridge"
HELD_KEYS = refused_kinds.HELD_KEYS


@dataclass(frozen=True)
class Site:
    """A worker that runs, and the queue that it alone consumes."""

    app: Celery
    client: Any
    queue: str
    pool: str
    worker: str

    @property
    def letters(self) -> Letters:
        return Letters(self.client, Keys())

    def letter_of(self, task_id: str) -> LetterDetail | None:
        """The parked letter of a task."""
        return next(
            (self.letters.get(one.id) for one in self.letters.walk() if task_id in (one.task_id, one.id)),
            None,
        )

    def forward(self, now: float | None = None) -> int:
        """Send what is due, as the keeper does. Returns how many it was."""
        return send_due(self.client, Keys(), now, dedup_hold_max_s=3600).sent

    def depth(self) -> int:
        return sum(self.client.llen(name) for name in Keys().queue_lists(self.queue))

    def held(self) -> dict[str, int]:
        """What is left of messages, by key."""
        sizes = {
            key: self.client.zcard(key) if self.client.type(key) == b"zset" else self.client.hlen(key)
            for key in (*HELD_KEYS, *Keys().scheduled())
        }
        return {key: size for key, size in sizes.items() if size} | (
            {self.queue: depth} if (depth := self.depth()) else {}
        )


Send = Callable[[Site, str], None]


@dataclass(frozen=True)
class Row:
    """One way to end."""

    outcome: Outcome
    name: str
    send: Send
    state: str | None
    """Of the result at the end. None: the message has no task id to ask for."""
    reason: ParkReason | None = None
    """Of its letter. None: it leaves none."""
    attempts: int = 0
    exception: str | None = None
    pools: frozenset[str] = field(default=frozenset({PREFORK, BRIDGE}))

    def __str__(self) -> str:
        return f"{self.outcome}: {self.name}"


def _call(task: str, *args: Any, **options: Any) -> Send:
    def send(site: Site, task_id: str) -> None:
        site.app.tasks[f"ends.{task}"].apply_async(args, task_id=task_id, queue=site.queue, **options)

    return send


def _revoked(site: Site, task_id: str) -> None:
    site.app.control.revoke(task_id)
    # The command comes by another way than the message.
    until(
        lambda: task_id in (site.app.control.inspect([site.worker]).revoked() or {}).get(site.worker, ()),
        "it is known",
    )
    _call("well")(site, task_id)


def _raw(kind: str) -> Send:
    """A message as nobody's producer writes it."""

    def send(site: Site, task_id: str) -> None:
        tag, raw = refused_kinds.make(kind, "ends.well", site.queue)
        site.client.lpush(site.queue, raw.replace(tag.encode(), task_id.encode()))

    return send


def _unreadable(site: Site, task_id: str) -> None:
    # A message for Lua, none for kombu.
    tag, raw = refused_kinds.make("unknown task", "ends.well", site.queue)
    broken = raw.replace(tag.encode(), task_id.encode()).replace(b'"delivery_info"', b'"delivery_data"')
    site.client.lpush(site.queue, broken)


def _asking(**request: Any) -> Send:
    """A request that celeray's own producer would refuse."""

    def send(site: Site, task_id: str) -> None:
        stock = Celery("stock", broker=site.app.conf.broker_url, set_as_current=False)
        headers = {"resource_requirements": request}
        stock.send_task("ends.well", task_id=task_id, queue=site.queue, headers=headers)
        stock.close()

    return send


ROWS = (
    Row(Outcome.SUCCESS, "returns", _call("well"), "SUCCESS"),
    Row(Outcome.SUCCESS, "after two retries by its policy", _call("recovers_retried", 2), "SUCCESS"),
    Row(
        Outcome.EXCEPTION, "no policy", _call("fails", "once"), "FAILURE", ParkReason.FAILED, 1, "ValueError"
    ),
    Row(
        Outcome.EXCEPTION,
        "its policy gives up",
        _call("fails_retried", "thrice"),
        "FAILURE",
        ParkReason.FAILED,
        3,
        "ValueError",
    ),
    Row(
        Outcome.EXCEPTION,
        "one that its policy never retries",
        _call("never_key"),
        "FAILURE",
        ParkReason.FAILED,
        1,
        "KeyError",
    ),
    Row(
        Outcome.EXCEPTION,
        "after Celery's own retries",
        _call("autoretry"),
        "FAILURE",
        ParkReason.FAILED,
        1,
        "ValueError",
    ),
    Row(
        Outcome.EXCEPTION,
        "acknowledged early",
        _call("fails_early", "once"),
        "FAILURE",
        ParkReason.FAILED,
        1,
        "ValueError",
    ),
    Row(
        Outcome.EXCEPTION,
        "acknowledged early, with a policy",
        _call("fails_early_retried", "thrice"),
        "FAILURE",
        ParkReason.FAILED,
        3,
        "ValueError",
    ),
    Row(Outcome.CELERY_RETRY, "self.retry", _call("celery_retry"), "SUCCESS"),
    Row(Outcome.IGNORE, "Ignore", _call("ignores"), "STARTED"),
    Row(
        Outcome.REJECT,
        "Reject",
        _call("rejects", False),
        "FAILURE",
        ParkReason.REJECTED,
        1,
        "celery.exceptions.Reject",
    ),
    Row(
        Outcome.SOFT_TIME_LIMIT,
        "sleeps on",
        _call("sleeps", 30.0, soft_time_limit=0.5),
        "FAILURE",
        ParkReason.TIME_LIMIT,
        1,
        "billiard.exceptions.SoftTimeLimitExceeded",
    ),
    Row(
        Outcome.SOFT_TIME_LIMIT,
        "its policy gives up",
        _call("sleeps_retried", 30.0, soft_time_limit=0.5),
        "FAILURE",
        ParkReason.TIME_LIMIT,
        3,
        "billiard.exceptions.SoftTimeLimitExceeded",
    ),
    Row(
        Outcome.TIME_LIMIT,
        "sleeps on",
        _call("sleeps", 30.0, time_limit=1),
        "FAILURE",
        ParkReason.TIME_LIMIT,
        1,
        "billiard.exceptions.TimeLimitExceeded",
    ),
    Row(
        Outcome.TIME_LIMIT,
        "its policy gives up",
        _call("sleeps_retried", 30.0, time_limit=1),
        "FAILURE",
        ParkReason.TIME_LIMIT,
        3,
        "billiard.exceptions.TimeLimitExceeded",
    ),
    Row(Outcome.REVOKED, "before it began", _revoked, "REVOKED"),
    Row(Outcome.EXPIRED, "before it was taken", _call("well", expires=-10), "REVOKED"),
    Row(
        Outcome.GPU_MEMORY,
        "it may not be placed again",
        _call("runs_out", headers={"resource_requirements": {"on_oom": "fail"}}),
        "FAILURE",
        ParkReason.VRAM,
        1,
        "RuntimeError",
    ),
    Row(
        Outcome.HOST_MEMORY,
        "MemoryError",
        _call("exhausts"),
        "FAILURE",
        ParkReason.HOST_MEMORY,
        1,
        "MemoryError",
    ),
    Row(
        Outcome.WORKER_LOST,
        "kills its process",
        _call("dies"),
        "FAILURE",
        ParkReason.WORKER_LOST,
        1,
        "billiard.exceptions.WorkerLostError",
        pools=frozenset({PREFORK}),
    ),
    Row(
        Outcome.EXECUTOR_LOST,
        "kills its process",
        _call("dies"),
        "FAILURE",
        ParkReason.EXECUTOR_LOST,
        1,
        "billiard.exceptions.WorkerLostError",
        pools=frozenset({BRIDGE}),
    ),
    Row(
        Outcome.WORKER_LOST,
        "its policy gives up",
        _call("dies_retried"),
        "FAILURE",
        ParkReason.WORKER_LOST,
        3,
        "billiard.exceptions.WorkerLostError",
        pools=frozenset({PREFORK}),
    ),
    Row(
        Outcome.EXECUTOR_LOST,
        "its policy gives up",
        _call("dies_retried"),
        "FAILURE",
        ParkReason.EXECUTOR_LOST,
        3,
        "billiard.exceptions.WorkerLostError",
        pools=frozenset({BRIDGE}),
    ),
    Row(
        Outcome.POISON,
        "kills its process each time",
        _call("poisons"),
        "STARTED",
        ParkReason.POISON,
        3,
        "billiard.exceptions.WorkerLostError",
    ),
    Row(Outcome.UNREADABLE, "no delivery info", _unreadable, None, ParkReason.UNREADABLE),
    Row(Outcome.UNDECODABLE, "no JSON", _raw("no JSON"), None, ParkReason.UNDECODABLE),
    Row(Outcome.CONTENT_TYPE, "pickle", _raw("pickle"), None, ParkReason.CONTENT_TYPE),
    Row(Outcome.UNKNOWN_TASK, "misspelt", _raw("unknown task"), "FAILURE", ParkReason.UNKNOWN_TASK),
    Row(Outcome.BAD_MESSAGE, "kwargs are a list", _raw("kwargs are a list"), None, ParkReason.BAD_MESSAGE),
    Row(
        Outcome.BAD_REQUEST,
        "negative VRAM",
        _asking(gpu=True, vram_gb=-1),
        "FAILURE",
        ParkReason.BAD_REQUEST,
        1,
        "celeray.scheduler.errors.RequirementError",
    ),
    Row(
        Outcome.NEVER_FITS,
        "more than there is",
        _asking(gpu=True, vram_gb=4000),
        "FAILURE",
        ParkReason.NEVER_FITS,
        1,
        "celeray.scheduler.errors.NeverFitsError",
        pools=frozenset({BRIDGE}),
    ),
)
KERNEL_ROWS = (
    Row(
        Outcome.HOST_MEMORY,
        "the kernel kills its process",
        _call("devours"),
        "FAILURE",
        ParkReason.HOST_MEMORY,
        1,
        "billiard.exceptions.WorkerLostError",
    ),
    Row(
        Outcome.HOST_MEMORY,
        "its policy gives up",
        _call("devours_retried"),
        "FAILURE",
        ParkReason.HOST_MEMORY,
        3,
        "billiard.exceptions.WorkerLostError",
    ),
)
"""Of a worker in a cgroup with a memory limit: a task takes more."""
ELSEWHERE = {
    # A node that is lost takes a Ray cluster of several.
    Outcome.NODE_LOST: "tests/integration/bridge/test_node_lost.py",
}


def rows_of(pool: str) -> list[Row]:
    """Those that can be provoked there."""
    return [row for row in ROWS if pool in row.pools]


def send(row: Row, site: Site) -> str:
    """Provoke the outcome. Returns the task's id."""
    task_id = str(uuid.uuid4())
    row.send(site, task_id)
    return task_id


def send_all(site: Site) -> dict[Row, str]:
    """Provoke all outcomes that there are on a worker, together, since some of them take their time."""
    return {row: send(row, site) for row in rows_of(site.pool)}


def check(row: Row, site: Site, task_id: str) -> LetterDetail | None:
    """Compare what is left of a task, once it has ended. Returns the letter."""
    reason = row.reason
    result = AsyncResult(task_id, app=site.app)

    def ended() -> bool:
        site.forward()
        left = row.reason is None or site.letter_of(task_id) is not None
        return left and (row.state is None or result.state == row.state)

    until(ended, f"{row}: state {row.state}, letter {reason}")
    letter = site.letter_of(task_id)
    if reason is None:
        assert letter is None
        assert task_id not in {one.task_id for one in site.letters.walk(LetterState.SCHEDULED)}
        return None
    assert letter is not None
    found = (letter.reason, letter.attempts, letter.exception)
    assert found == (reason, row.attempts, row.exception), letter.detail
    assert [one.number for one in letter.history] == list(range(1, row.attempts + 1))
    assert all(one.worker == site.worker for one in letter.history)
    return letter


def check_terminated(site: Site) -> None:
    """Revoked in its run, whose process is killed: that is no failure, and no policy retries it."""
    result = site.app.tasks["ends.sleeps_retried"].apply_async((60.0,), queue=site.queue)
    until(lambda: result.state == "STARTED", "it runs")
    result.revoke(terminate=True, signal="SIGKILL")
    until(lambda: result.state == "REVOKED", "it is revoked")
    check_nothing_left(site)
    assert site.letter_of(result.id) is None
    assert AsyncResult(result.id, app=site.app).state == "REVOKED"


def check_nothing_left(site: Site) -> None:
    """Of all that was sent nothing is on a list, held, or waiting."""

    def gone() -> bool:
        site.forward()
        return not site.held()

    until(gone, f"nothing is left: {site.held()}")
