"""All executors of this bridge, by id: commands find theirs here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from celeray.actors.endings import Endings
from celeray.actors.event_port import EventPort
from celeray.actors.nodes import Nodes
from celeray.actors.processes import ProcessId
from celeray.actors.ray_errors import describe, is_connection_error
from celeray.actors.single import FreshExecutor
from celeray.actors.warm import WarmExecutor
from celeray.scheduler.cluster import EndCause, ExecutorEnded, ExecutorSpec

POLL_S = 0.02

logger = logging.getLogger(__name__)


class Executors:
    """Called by the main thread, except `check` and the forgetting of what ended."""

    def __init__(self, port: EventPort, nodes: Nodes) -> None:
        self._port = port
        self._nodes = nodes
        self._endings = Endings(port, nodes)
        self._live: dict[str, WarmExecutor | FreshExecutor] = {}

    def start(self, spec: ExecutorSpec) -> None:
        """Start one; a node or device that is no longer leased ends it as NODE_LOST.

        Raises:
            Exception: Ray refuses it, over a `runtime_env` with a typo, say; `fail` ends it then.
        """
        kind = FreshExecutor if spec.fresh else WarmExecutor
        executor = kind(spec, self._port, self._endings, self._forget)
        # Before its start: its end may come first, and forgets it.
        self._live[spec.executor_id] = executor
        options = self._options(spec)
        if options is None:
            self._forget(spec.executor_id)
            detail = f"node {spec.node_id} no longer has the devices {list(spec.device_uuids)}"
            self._port.emit(ExecutorEnded(spec.executor_id, EndCause.NODE_LOST, detail))
        else:
            executor.start(options, self._nodes.holds_folder(spec.node_id))

    def fail(self, executor_id: str, error: Exception) -> None:
        """End the executor for which a command raised `error`, as START_FAILED or DIED, and only that one."""
        if (executor := self._live.get(executor_id)) is not None:
            executor.fail(describe(error))

    def run(self, executor_id: str, runs: bytes) -> None:
        """Hand pickled `RunSpec`s over, as they are."""
        if (executor := self._live.get(executor_id)) is not None:
            executor.run(runs)

    def stop(self, executor_id: str, *, force: bool) -> None:
        if (executor := self._live.get(executor_id)) is not None:
            executor.stop(force=force)

    def signal(self, executor_id: str, signum: int) -> None:
        """Let the node agent send a signal to an executor's process."""
        executor = self._live.get(executor_id)
        if executor is None or executor.process is None:
            return
        if (agent := self._nodes.agent(executor.node_id)) is not None:
            agent.signal.remote(executor.process, signum)

    def check(self) -> None:
        """Notice idle executors that died.

        Raises:
            Exception: Ray can't be reached.
        """
        self._each(lambda executor: executor.check())

    def processes(self) -> dict[str, frozenset[ProcessId]]:
        """The processes of all executors that are known to have one, by node."""
        found: dict[str, set[ProcessId]] = {}
        for executor in list(self._live.values()):
            if executor.process is not None:
                found.setdefault(executor.node_id, set()).add(executor.process)
        return {node_id: frozenset(processes) for node_id, processes in found.items()}

    def stop_all(self, timeout_s: float) -> None:
        """End all: with Celery's shutdown signals in the first half of the time, then by force."""
        deadline = time.monotonic() + timeout_s
        for force, until in ((False, deadline - timeout_s / 2), (True, deadline)):
            self._each(partial(_stop, force=force))
            _wait(lambda: not self._live, until)

    def _options(self, spec: ExecutorSpec) -> dict[str, Any] | None:
        options: dict[str, Any] = {}
        if spec.runtime_env:
            options["runtime_env"] = dict(spec.runtime_env)
        if not self._nodes.is_alive(spec.node_id):
            return None
        if not spec.device_uuids:
            strategy: Any = NodeAffinitySchedulingStrategy(spec.node_id, soft=False)
        else:
            groups = [self._nodes.group(spec.node_id, uuid) for uuid in spec.device_uuids]
            if None in groups:
                return None
            strategy = PlacementGroupSchedulingStrategy(groups[0])
        return options | {"scheduling_strategy": strategy}

    def _each(self, action: Callable[[WarmExecutor | FreshExecutor], None]) -> None:
        for executor_id, executor in list(self._live.items()):
            try:
                action(executor)
            except Exception as error:
                if is_connection_error(error):
                    raise
                logger.exception("executor %s failed", executor_id)
                executor.fail(describe(error))

    def _forget(self, executor_id: str) -> None:
        self._live.pop(executor_id, None)


def _stop(executor: WarmExecutor | FreshExecutor, *, force: bool) -> None:
    executor.stop(force=force)


def _wait(condition: Callable[[], bool], until: float) -> None:
    while not condition() and time.monotonic() < until:
        time.sleep(POLL_S)
