"""`RayCluster`: the scheduler's `Cluster` on Ray.

Ray is driven by a child process. A raylet or GCS that dies aborts the process of its driver, and Ray's threads
would share the consumer's GIL; so the bridge stays free of both, sees such a death as `ClusterDown`, and starts
another child until the cluster answers again.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Collection, Sequence
from threading import Event, Lock, Thread

from celeray.actors.channel import (
    Command,
    DriverConfig,
    Forgive,
    KeepAlive,
    ReadNode,
    Run,
    Scale,
    SignalExecutor,
    StartExecutor,
    Stop,
    StopExecutor,
    encode,
)
from celeray.actors.driver_process import DriverProcess, redirect_target
from celeray.scheduler.cluster import (
    ClusterDown,
    ClusterEvent,
    ClusterUp,
    ExecutorSpec,
    Listener,
    NodeAsk,
    RunSpec,
)
from celeray.scheduler.settings import Settings

logger = logging.getLogger(__name__)

BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 15.0
EXIT_TIMEOUT_S = 5.0
"""How long a child that closed its pipe may take to exit before it is killed."""


class RayCluster:
    """Commands go to the child, events come from it. Restarts the child with exponential backoff."""

    def __init__(
        self, settings: Settings, bridge_id: str, *, log_file: str | os.PathLike[str] | None = None
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            settings: `ray_address` (else RAY_ADDRESS, else a local Ray of its own), `simulate_gpus`,
                `reading_interval_s` and `canary_interval_s` count here.
            bridge_id: names this bridge in Ray's own lists.
            log_file: where the child's output goes, appended. None: the bridge's own output.
        """
        self._config = DriverConfig(
            bridge_id=bridge_id,
            ray_address=settings.ray_address or os.environ.get("RAY_ADDRESS") or None,
            simulate_gpus=settings.simulate_gpus,
            reading_interval_s=settings.reading_interval_s,
            canary_interval_s=settings.canary_interval_s,
        )
        self._log_file = redirect_target(log_file)
        self._stopping = Event()
        self._lock = Lock()
        self._driver: DriverProcess | None = None
        self._supervisor: Thread | None = None
        self._listener: Listener | None = None

    @property
    def driver_pid(self) -> int | None:
        """Process id of the child that drives Ray now; None between two of them."""
        driver = self._driver
        return None if driver is None else driver.pid

    def start(self, listener: Listener) -> None:
        """Spawn the child and report events to `listener`, always from one thread."""
        self._listener = listener
        self._supervisor = Thread(target=self._supervise, name="celeray-cluster", daemon=True)
        self._supervisor.start()

    def stop(self, timeout_s: float) -> None:
        """End all executors and the child; it is killed after `timeout_s` seconds. Safe to call twice."""
        deadline = time.monotonic() + timeout_s
        self._put(Stop(timeout_s))
        with self._lock:
            self._stopping.set()
            driver = self._driver
        if driver is not None:
            driver.close(timeout_s)
        if self._supervisor is not None:
            self._supervisor.join(max(0.0, deadline - time.monotonic()) + EXIT_TIMEOUT_S)

    def start_executor(self, spec: ExecutorSpec) -> None:
        self._put(StartExecutor(spec))

    def run(self, executor_id: str, *runs: RunSpec) -> None:
        self._put(Run(executor_id, encode(runs)))

    def stop_executor(self, executor_id: str, *, force: bool) -> None:
        self._put(StopExecutor(executor_id, force))

    def signal_executor(self, executor_id: str, signum: int) -> None:
        self._put(SignalExecutor(executor_id, signum))

    def forgive(self, node_id: str, uuid: str, up_to: float) -> None:
        self._put(Forgive(node_id, uuid, up_to))

    def scale(self, asks: Sequence[NodeAsk], released: Collection[str]) -> None:
        self._put(Scale(tuple(asks), frozenset(released)))

    def read_node(self, node_id: str) -> None:
        self._put(ReadNode(node_id))

    def keep_alive(self, sent_at: float, lease_s: float) -> None:
        self._put(KeepAlive(sent_at, lease_s))

    def _put(self, command: Command) -> None:
        # Between two children there is no executor that a command could be for.
        if (driver := self._driver) is not None:
            driver.put(command)

    def _supervise(self) -> None:
        delay = BACKOFF_MIN_S
        while (driver := self._spawn()) is not None:
            was_up, detail = self._relay(driver)
            # Commands of before must not reach the next child.
            self._driver = None
            code = driver.close(EXIT_TIMEOUT_S)
            if self._stopping.is_set():
                return
            if detail is None:
                self._report(ClusterDown(f"the process that drives Ray ended with exit code {code}"))
            delay = BACKOFF_MIN_S if was_up else min(delay * 2, BACKOFF_MAX_S)
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads bridges, no secret

    def _spawn(self) -> DriverProcess | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._driver = DriverProcess(self._config, self._log_file)
            return self._driver

    def _relay(self, driver: DriverProcess) -> tuple[bool, str | None]:
        """Report events until the child is gone; whether it was ever up, and why it said that it ends."""
        was_up, detail = False, None
        try:
            while detail is None:
                for event in driver.receive():
                    self._report(event)
                    was_up = was_up or isinstance(event, ClusterUp)
                    if isinstance(event, ClusterDown):
                        detail = event.detail
        except (EOFError, OSError):
            pass
        return was_up, detail

    def _report(self, event: ClusterEvent) -> None:
        assert self._listener is not None
        try:
            self._listener(event)
        except Exception:
            logger.exception("the listener of cluster events failed on %r", event)
