"""The Celery worker pool whose processes are executors on a cluster.

Celery's consumer keeps what its users rely on: acks, ETA, rate limits, revokes, time limits, events, inspect, warm
and cold shutdown. The pool takes each request through `on_apply`, and calls its callbacks on the consumer thread.

The consumer thread never blocks: events of the cluster come on other threads, go on a deque, and a callback on the
hub handles all of them at once, so that the acks of one wake-up go out together. `Hub.call_soon` is locked and wakes
the loop (kombu >= 5.7), and its set of callbacks holds this one at most once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import deque
from typing import Any

from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks as run_ready_acks
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name
from vine import promise

from celeray.scheduler.bridge import picture
from celeray.scheduler.bridge.celery_port import CeleryPort
from celeray.scheduler.bridge.device_watch import DeviceWatch
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.drain_watch import DrainWatch
from celeray.scheduler.bridge.elastic_watch import ElasticWatch
from celeray.scheduler.bridge.garbage import settle
from celeray.scheduler.bridge.intake import Intake
from celeray.scheduler.bridge.lease_watch import LeaseWatch
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.bridge.reporting import Reporting
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.bridge.upkeep import Upkeep
from celeray.scheduler.bridge.window import Window
from celeray.scheduler.bridge.worker_options import app_spec, executor_limits, node_name
from celeray.scheduler.broker import broker_keys, broker_redis
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.cluster import ClusterEvent
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.installation import settings_of
from celeray.scheduler.lost_leases import give_up
from celeray.scheduler.transport.leases import LeaseBook

logger = logging.getLogger(__name__)
TICK_S = 1.0
STOP_S = 20.0
"""How long executors may take at shutdown to run Celery's shutdown signals and end."""
POLL_S = 0.01
"""Between looks at the events while the pool is joined and no loop runs."""
DEADLY = frozenset({1, 2, 3, 6, 9, 15})
"""HUP, INT, QUIT, ABRT, KILL, TERM: what ends a prefork child, ends the executor."""


class TaskPool(BasePool):
    """`worker_pool = "celeray.scheduler.bridge.pool:TaskPool"`; `celeray bridge` sets it."""

    runs_on_ray = True
    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = True

    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hub: Any = None
        self._events: deque[ClusterEvent] = deque()
        self._refused: deque[tuple[CeleryPort, Exception]] = deque()
        self._wake = promise(self._drain)
        self._due_at: float | None = None
        self._waking = False
        self._closed = False
        self._stopped = False

    # Start

    def on_start(self) -> None:
        if self.options.get("threads"):
            raise ImproperlyConfigured(
                "the bridge needs a broker transport with an event loop (redis, sentinel or amqp); "
                f"broker_url has {self.app.connection_for_read().transport.driver_type!r}"
            )
        self._settings = settings_of(self.app)
        self._clock = SystemClock()
        hostname = node_name(self.options)
        self.bridge_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._cluster = symbol_by_name(self._settings.cluster)(self._settings, self.bridge_id)
        self._recorder = Recorder()
        self.dispatcher = Dispatcher(
            self._cluster,
            self._settings,
            app_spec(self.app, self._settings, hostname),
            clock=self._clock,
            recorder=self._recorder,
            limits=executor_limits(self.options),
        )
        self.dispatcher.window = self.limit
        self._elastic = ElasticWatch(self.dispatcher, self._cluster, self._settings)
        self._reporting = Reporting(
            self.app,
            self._settings,
            self.bridge_id,
            hostname,
            self.dispatcher,
            self._recorder,
            self._elastic.status,
        )
        self.window = Window(self.dispatcher, self._clock, self._wake_in)
        self._upkeep = Upkeep(self.dispatcher, self._settings, self._reporting.refusal)
        self._drains = DrainWatch(lambda: broker_redis(self.app), broker_keys(self.app), self._wake_soon)
        self._device_watch = DeviceWatch(self.dispatcher, self._cluster, lambda: self._drains.newest)
        self._lease_watch = LeaseWatch(self._cluster.keep_alive)
        self._intake = Intake(self.dispatcher, self._recorder, self._settings, self.options)
        self._reporting.start()
        self._drains.start()
        settle()
        self._cluster.start(self._on_event)

    def register_with_event_loop(self, loop: Any) -> None:
        # Called again after every reconnect, when the loop has cancelled the timers that were registered here.
        self._hub = loop
        loop.call_repeatedly(TICK_S, self._tick)
        loop.call_repeatedly(self._settings.status_interval_s, self._report)
        self._due_at = None
        loop.call_soon(self._wake)

    # Work

    def on_apply(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        accept_callback: Any = None,
        callback: Any = None,
        error_callback: Any = None,
        timeout_callback: Any = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Run | None:
        """Take one message. Returns the handle that Celery keeps a weak reference to."""
        request = callback.__self__
        port = CeleryPort(
            request,
            args,
            accept_callback=accept_callback,
            callback=callback,
            error_callback=error_callback,
            timeout_callback=timeout_callback,
        )
        if self._closed:
            port.give_back()
            return None
        self._wake_soon()
        taken = self._intake.take(request, port, soft_limit_s=soft_timeout, hard_limit_s=timeout)
        if isinstance(taken, RequirementError):
            # Told from the loop: Celery has not finished handing the message over yet.
            self._refused.append((port, taken))
            return None
        return taken

    def _on_event(self, event: ClusterEvent) -> None:
        """From any thread."""
        self._events.append(event)
        self._wake_soon()

    def _wake_soon(self) -> None:
        """From any thread. A wake-up that is under way takes what came before it."""
        if not self._waking and self._hub is not None:
            self._waking = True
            self._hub.call_soon(self._wake)

    def _drain(self) -> None:
        """Everything that has happened, then one placement cycle. An error in one thing spares the others."""
        # First: what comes from here on wakes again, whether or not the loops below still see it.
        self._waking = False
        while self._refused:
            port, error = self._refused.popleft()
            self._guard(port.refused, error)
        while self._events:
            event = self._events.popleft()
            self._guard(self._elastic.note, event)
            self._guard(self.dispatcher.handle, event)
        self._guard(self.dispatcher.run_due)
        self._guard(self.window.return_paused)
        self._guard(self._device_watch.follow)
        self._guard(self.dispatcher.cycle)
        self._guard(self.window.balance)
        self._schedule_due()

    def _guard(self, action: Any, *args: Any) -> None:
        try:
            action(*args)
        except Exception:
            # An exception here would end the worker's loop, and with it every other task.
            logger.exception("the bridge failed in %s", getattr(action, "__qualname__", action))

    def _schedule_due(self) -> None:
        due_at = self.dispatcher.deadlines.next_at()
        if due_at is None or (self._due_at is not None and self._due_at <= due_at):
            return
        self._due_at = due_at
        self._hub.call_later(max(0.0, due_at - self._clock.monotonic()), self._on_due)

    def _wake_in(self, seconds: float) -> None:
        self._hub.call_later(seconds, self._drain)

    def _on_due(self) -> None:
        self._due_at = None
        self._drain()

    def _tick(self) -> None:
        self._guard(self._upkeep.run_once, self._clock.monotonic())
        self._guard(self._device_watch.run_once, self._clock.monotonic())
        if not self._closed:
            self._guard(self._elastic.run_once, self._clock.monotonic())
        self._drain()

    def _report(self) -> None:
        self._guard(self._reporting.offer, self.limit)

    # Control

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End a running task: `pid` is what its `accept_callback` was given."""
        # What has ended already need not be killed.
        self._drain()
        signum = int(signal or 15)
        self.dispatcher.terminate(pid, signum, deadly=signum in DEADLY)

    def watch_leases(self, book: LeaseBook) -> None:
        """Have runs ended in time when the leases of this book can't be renewed."""
        self._lease_watch.watch(book)

    def lease_lost(self, request: Any) -> None:
        """The message of a request is somebody else's."""
        run = request._apply_result() if request._apply_result is not None else None
        if run is None:
            give_up(request)
        else:
            self.dispatcher.lease_lost(run)
            self._hub.call_soon(self._wake)

    def grow(self, n: int = 1) -> None:
        """Hold `n` more messages."""
        self.limit += n
        self.dispatcher.window = self.limit

    def shrink(self, n: int = 1) -> None:
        """Hold `n` messages fewer; at least one.

        Raises:
            ValueError: the window would be empty.
        """
        if n >= self.limit:
            raise ValueError(
                f"pool_shrink n={n}: the window holds {self.limit} messages, and must hold at least 1"
            )
        self.limit -= n
        self.dispatcher.window = self.limit

    def restart(self) -> None:
        """Replace all executors: idle ones now, the others after their task."""
        self.dispatcher.fleet.recycle()

    def flush(self) -> None:
        """The connection is gone or closing: nothing more of what waits may begin, since it can't be acknowledged."""
        self._refused.clear()
        self._guard(self.dispatcher.give_back_unbegun)

    def _get_info(self) -> dict[str, Any]:
        info = super()._get_info()
        limits = {
            "max-concurrency": self.limit,
            "max-tasks-per-child": self.options.get("maxtasksperchild") or "N/A",
            "timeouts": (self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0),
            "bridge": self.bridge_id,
        }
        return {**info, **limits, **picture.pool_info(self.dispatcher)}

    # Shutdown

    def on_close(self) -> None:
        """Warm shutdown begins: what has not begun goes back at once."""
        if not self._closed:
            self._closed = True
            self._guard(self.dispatcher.close)

    def on_stop(self) -> None:
        """Warm shutdown: wait for what runs, then end the executors."""
        if self._stopped:
            return
        self._stopped = True
        self.on_close()
        while self.dispatcher.running:
            self._pump()
            time.sleep(POLL_S)
        self._end_cluster(STOP_S)

    def on_terminate(self) -> None:
        """Cold shutdown: end the executors now. Celery has cancelled what ran."""
        if self._stopped:
            return
        self._stopped = True
        self.on_close()
        for executor in self.dispatcher.fleet.executors.alive():
            self.dispatcher.fleet.stop(executor, force=True)
        self._end_cluster(STOP_S / 4)

    def _pump(self) -> None:
        """What the loop would do, while the worker joins the pool and runs it no more."""
        self._drain()
        if self._hub is not None:
            self._guard(self._hub.fire_timers)
            self._guard(run_ready_acks, self._hub)

    def _end_cluster(self, timeout_s: float) -> None:
        self._pump()
        self._report()
        self._cluster.stop(timeout_s)
        self._reporting.stop()
        self._drains.stop()
