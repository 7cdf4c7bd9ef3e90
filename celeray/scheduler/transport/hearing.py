"""Hears what prefork's children have to tell, before what they were not heard to begin is given back and forgotten.

When a connection is lost, the channel gives back what has not begun, and Celery's prefork drops each job that no child
has accepted (`AsynPool.flush`). A child that has been sent the job runs it all the same, and nobody learns of that: its
message would start twice though nothing crashed. A child tells a begin at once, so reading its pipe is enough.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import GeneratorType
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker.consumer.tasks import Tasks

from celeray.scheduler.transport.qos import QoS

WAIT_S = 1.0
"""A child that is up accepts within milliseconds; one that is stopped, or whose pipe is full, is not waited for."""
POLL_S = 0.05


class Hearing:
    """Stands before a prefork pool's `flush`, which comes first at a shutdown; else the channel closes first."""

    def __init__(self, pool: Any, hub: Any) -> None:
        self._children: Any = pool._pool
        self._flush: Callable[[], None] = pool.flush
        self._hub = hub

    def __call__(self) -> None:
        self.hear()
        self._flush()

    def hear(self) -> None:
        """Read from the children until each has accepted what it was sent, or `WAIT_S` seconds are over."""
        deadline = time.monotonic() + WAIT_S
        while self._unheard() and time.monotonic() < deadline:
            pipes = list(self._children._fileno_to_outq)
            readable, _, _ = select.select(pipes, [], [], POLL_S)
            for fd in readable:
                self._read(fd)

    def _unheard(self) -> bool:
        # `_write_to` is set when the first byte of a job is sent; what was not sent at all is never run.
        jobs = list(self._children._cache.values())
        return any(job._write_to is not None and not job.accepted() for job in jobs)

    def _read(self, fd: int) -> None:
        """As the event loop does, which has no readers any more: a message may come in several parts."""
        callback, args = self._hub.readers.get(fd) or (self._children.handle_result_event, (fd,))
        if not isinstance(callback, GeneratorType):
            callback(*args)
            return
        try:
            next(callback)
        except StopIteration:
            pass
        except OSError:
            self._hub.remove(fd)


class HearChildren(bootsteps.StartStopStep):
    """Consumer step. A pool's `flush` is made when the pool starts, which is before any consumer step does.

    The channel is another one after each reconnect.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        pool = consumer.pool
        qos = getattr(consumer.task_consumer.channel, "qos", None)
        asynchronous = isinstance(pool, PreforkPool) and hasattr(pool._pool, "handle_result_event")
        if not asynchronous or not consumer.hub or not isinstance(qos, QoS):
            return
        if not isinstance(pool.flush, Hearing):
            pool.flush = Hearing(pool, consumer.hub)
        qos.leases.before_return.append(pool.flush.hear)

    def stop(self, consumer: Any) -> None:
        """Nothing: the pool outlives the connection."""
