"""Saying that an executor is gone: once, and only when its process really is.

A device is given out again on that word, and a process that still holds VRAM after Ray dropped it would make the
next task run out of memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from signal import SIGKILL
from typing import Any

import ray

from celeray.actors import channel
from celeray.actors.event_port import EventPort
from celeray.actors.journal import read_journal
from celeray.actors.nodes import Nodes
from celeray.actors.processes import ProcessId
from celeray.actors.ray_errors import describe
from celeray.scheduler.cluster import EndCause, ExecutorEnded
from celeray.scheduler.endings.classifying import OUT_OF_MEMORY, node_gone

POLL_S = 0.02
KILL_AFTER_S = 2.0
"""After this the node agent kills a process that Ray should have ended."""
DEADLINE_S = 30.0
"""After this the end is reported whether or not the process was seen dead; the detail says so. Longer than Ray needs to
see that a node is gone that lost its power: 18 s (measured)."""
ASK_TIMEOUT_S = 2.0
NODE_LOST = "node lost"

logger = logging.getLogger(__name__)


class Endings:
    """Waits for deaths on threads of its own, so that neither commands nor Ray's callbacks wait."""

    def __init__(self, port: EventPort, nodes: Nodes) -> None:
        self._port = port
        self._nodes = nodes
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="celeray-ending")

    def report(
        self,
        end: ExecutorEnded,
        *,
        node_id: str,
        process: ProcessId | None,
        then: Callable[[], None],
        actor: Any = None,
    ) -> None:
        """Report `end` when `process` is gone; None: it never had one that is known.

        Args:
            end: the cause as far as it is known; becomes NODE_LOST when the node turns out to be gone.
            node_id: where it ran.
            process: the executor's process.
            then: called right before the report.
            actor: a live actor to kill first. Not done by the caller, since a Ray callback that asks Ray's
                control plane anything waits for itself for ever (measured).
        """
        self._threads.submit(self._report, end, node_id, process, then, actor)

    def _report(
        self,
        end: ExecutorEnded,
        node_id: str,
        process: ProcessId | None,
        then: Callable[[], None],
        actor: Any,
    ) -> None:
        if actor is not None:
            _kill(actor)
        # Whatever goes wrong here: without its end, an executor would hold its devices for ever.
        try:
            remark = self._wait_gone(node_id, process)
            if remark is None and not self._nodes.is_alive(node_id, ask=True):
                remark = NODE_LOST
        except Exception as error:
            logger.exception("the end of executor %s could not be watched", end.executor_id)
            remark = f"Ray could not be asked about it: {describe(error)}"
        end = self._explained(end, node_id, process, remark)
        if process is not None:
            end = self._with_progress(end, node_id, process)
        try:
            then()
        except Exception:
            logger.exception("executor %s could not be forgotten", end.executor_id)
        self._port.emit(end)

    def _explained(
        self, end: ExecutorEnded, node_id: str, process: ProcessId | None, remark: str | None
    ) -> ExecutorEnded:
        """With what was found out, which the outcome comes of: Ray may say no more than that a connection broke."""
        if remark == NODE_LOST:
            return replace(end, cause=EndCause.NODE_LOST, detail=f"{end.detail}; {node_gone(node_id)}")
        if remark is not None:
            return replace(end, detail=f"{end.detail} ({remark})")
        if self._was_ended(node_id, process):
            detail = "its bridge did not renew its leases in time"
            return replace(end, cause=EndCause.LEASE_LOST, detail=detail)
        if end.cause is not EndCause.STOPPED and self._was_out_of_memory(node_id):
            return replace(end, detail=f"{end.detail} ({OUT_OF_MEMORY})")
        return end

    def _with_progress(self, end: ExecutorEnded, node_id: str, process: ProcessId) -> ExecutorEnded:
        """With what the executor wrote about its last batch; the ends of runs that are in there are told first."""
        if end.cause is EndCause.NODE_LOST:
            return end
        try:
            if (agent := self._nodes.agent(node_id)) is None:
                return end
            call = agent.take_journal.remote(process.pid, end.executor_id)
            journal = ray.get(call, timeout=ASK_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - Ray raises its own errors, ValueError and RuntimeError
            logger.warning("the journal of executor %s can't be read: %s", end.executor_id, describe(error))
            return end
        if journal is None:
            return end
        ended, progress = read_journal(end.executor_id, journal)
        if ended:
            self._port.forward(channel.encode(ended))
        return replace(end, progress=progress)

    def _wait_gone(self, node_id: str, process: ProcessId | None) -> str | None:
        """None when the process is gone, else what was found instead."""
        begin, killed = time.monotonic(), False
        while process is not None:
            if (waited := time.monotonic() - begin) > DEADLINE_S:
                return f"process {process.pid} was not seen dead within {DEADLINE_S:.0f} s"
            if not self._nodes.is_alive(node_id):
                return NODE_LOST
            try:
                if not self._ask(node_id, "is_alive", process):
                    return None
                if waited > KILL_AFTER_S and not killed:
                    killed = self._ask(node_id, "signal", process, SIGKILL)
            except Exception as error:  # noqa: BLE001 - Ray raises its own errors, ValueError and RuntimeError
                # The agent restarts, or died with its node.
                logger.debug("no answer about process %s: %s", process, describe(error))
                if not self._nodes.is_alive(node_id, ask=True):
                    return NODE_LOST
            time.sleep(POLL_S)
        return None

    def _was_ended(self, node_id: str, process: ProcessId | None) -> bool:
        """Whether the node's agent killed it since the bridge did not renew its leases."""
        if process is None or self._nodes.agent(node_id) is None:
            return False
        try:
            return self._ask(node_id, "was_ended", process)
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("no answer about the end of %s: %s", process, describe(error))
            return False

    def _was_out_of_memory(self, node_id: str) -> bool:
        """Whether the kernel killed it for want of host memory. Ray itself does not know."""
        try:
            return self._nodes.agent(node_id) is not None and self._ask(node_id, "was_out_of_memory")
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("node %s does not answer about its memory: %s", node_id, describe(error))
            return False

    def _ask(self, node_id: str, method: str, *args: Any) -> bool:
        """What the node's agent answers; True while there is none to ask.

        Raises:
            RayError: the agent does not answer in time, or is gone.
        """
        agent = self._nodes.agent(node_id)
        if agent is None:
            return True
        return bool(ray.get(getattr(agent, method).remote(*args), timeout=ASK_TIMEOUT_S))


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor, no_restart=True)
    except Exception:
        # The node's agent kills the process a little later.
        logger.exception("Ray could not kill %s", actor)
