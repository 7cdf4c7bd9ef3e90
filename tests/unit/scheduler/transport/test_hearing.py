"""What is read from prefork's children before their pool forgets."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celeray.scheduler.transport import hearing
from celeray.scheduler.transport.hearing import HearChildren, Hearing


class Job:
    """One that was sent to a child, or not yet."""

    def __init__(self, *, sent: bool) -> None:
        self._write_to = object() if sent else None
        self.heard = False

    def accepted(self) -> bool:
        return self.heard


class Pool:
    """Prefork as far as its pipe of results goes; a byte on it is a child's word that it has begun."""

    def __init__(self, *jobs: Job) -> None:
        self.end, self.child = os.pipe()
        self.events: list[str] = []
        self._pool = SimpleNamespace(
            _cache=dict(enumerate(jobs)), _fileno_to_outq={self.end: None}, handle_result_event=self.read
        )
        self.hub: Any = SimpleNamespace(readers={})
        celerys = SimpleNamespace(_pool=self._pool, flush=lambda: self.events.append("flushed"))
        self.flush = Hearing(celerys, self.hub)

    def read(self, fd: int) -> None:
        os.read(fd, 1)
        self.events.append("heard")
        for job in self._pool._cache.values():
            job.heard = True


@pytest.fixture
def pools() -> Iterator[Any]:
    made: list[Pool] = []

    def make(*jobs: Job) -> Pool:
        made.append(Pool(*jobs))
        return made[-1]

    yield make
    for pool in made:
        os.close(pool.end)
        os.close(pool.child)


def test_a_begin_that_comes_a_moment_later_is_heard_before_the_pool_forgets(pools: Any) -> None:
    pool = pools(Job(sent=True))
    threading.Timer(0.1, os.write, (pool.child, b".")).start()
    pool.flush()
    assert pool.events == ["heard", "flushed"]


@pytest.mark.parametrize("jobs", [[], [Job(sent=False)]])
def test_what_was_not_sent_is_not_waited_for(
    pools: Any, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "WAIT_S", 1e6)
    pool = pools(*jobs)
    pool.flush()
    assert pool.events == ["flushed"]


def test_a_child_that_says_nothing_is_waited_for_no_longer(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "WAIT_S", 0.1)
    pool = pools(Job(sent=True))
    pool.flush()
    assert pool.events == ["flushed"]


def test_a_message_that_comes_in_parts_is_read_to_its_end(pools: Any) -> None:
    pool = pools(Job(sent=True))

    def parts() -> Iterator[None]:
        os.read(pool.end, 1)
        yield
        pool.read(pool.end)

    pool.hub.readers[pool.end] = (parts(), ())
    os.write(pool.child, b"..")
    pool.flush()
    assert pool.events == ["heard", "flushed"]


def test_other_pools_keep_their_flush() -> None:
    pool = SimpleNamespace(flush=print)
    consumer = SimpleNamespace(pool=pool, hub=object(), task_consumer=SimpleNamespace(channel=None))
    HearChildren(consumer).start(consumer)
    assert pool.flush is print
