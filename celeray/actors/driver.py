"""The process that drives Ray for one bridge: ``python -m celeray.actors.driver FD``.

The main thread takes commands from the pipe; outcomes go back from Ray's own threads; one thread looks after nodes,
leases and idle executors; another one gives up when Ray no longer answers. The process ends when its bridge does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING

from celeray.actors import channel, ray_session
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
)
from celeray.actors.event_port import BRIDGE_GONE, UNREACHABLE, EventPort
from celeray.actors.ray_errors import describe, is_connection_error
from celeray.actors.supervision import Heartbeat, Renewal
from celeray.scheduler.cluster import ClusterUp

if TYPE_CHECKING:
    from celeray.actors.executors import Executors
    from celeray.actors.nodes import Nodes

CONNECT_LIMIT_S = 120.0
"""A local Ray is up in 3 to 10 s (measured); one on a busy machine may take longer."""
UNANSWERED_LIMIT_S = 15.0
"""Ray itself waits 60 s for a GCS that does not answer; a GCS with its state in Redis is back within a few."""
LEAVE_LIMIT_S = 10.0
"""How long Ray's shutdown may take when nobody waits for it."""

logger = logging.getLogger(__name__)


class Driver:
    """Connected to Ray. Serves one bridge until it stops or is gone."""

    def __init__(self, connection: Connection, port: EventPort, config: DriverConfig) -> None:
        # Only now: these import Ray, which must find its environment prepared.
        from celeray.actors.executors import Executors
        from celeray.actors.node_asks import NodeAsks
        from celeray.actors.nodes import Nodes

        self._connection = connection
        self._port = port
        self._stopping = Event()
        self._asks = NodeAsks(port)
        self._nodes: Nodes = Nodes(
            port,
            config.simulate_gpus,
            reading_interval_s=config.reading_interval_s,
            canary_interval_s=config.canary_interval_s,
            asking=self._asks.pending,
        )
        self._executors: Executors = Executors(port, self._nodes)
        self._heartbeat = Heartbeat(config.bridge_id)

    def serve(self, early: Sequence[Command] = ()) -> int:
        """Take commands until the bridge stops this process or is gone; the exit code.

        Args:
            early: commands that came in the first frame, behind the configuration.
        """
        for body in (self._look_after, self._watch_ray):
            Thread(target=body, name=f"celeray{body.__name__}", daemon=True).start()
        commands: Sequence[Command] = early
        while True:
            for command in commands:
                if isinstance(command, Stop):
                    self._stopping.set()
                    self._executors.stop_all(command.timeout_s * 0.8)
                    return 0
                self._obey(command)
            try:
                commands = channel.receive(self._connection)
            except (EOFError, OSError):
                self._stopping.set()
                return BRIDGE_GONE

    def _obey(self, command: Command) -> None:
        try:
            self._carry_out(command)
        except Exception as error:
            logger.exception("command failed: %r", command)
            if is_connection_error(error):
                self._port.give_up(describe(error))
            if (to_blame := _executor_of(command)) is not None:
                self._executors.fail(to_blame, error)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Run(executor_id, runs):
                self._executors.run(executor_id, runs)
            case StartExecutor(spec):
                self._executors.start(spec)
            case StopExecutor(executor_id, force):
                self._executors.stop(executor_id, force=force)
            case SignalExecutor(executor_id, signum):
                self._executors.signal(executor_id, signum)
            case ReadNode(node_id):
                self._nodes.read_now(node_id)
            case Forgive(node_id, uuid, up_to):
                self._nodes.forgive(node_id, uuid, up_to)
            case Scale(asks, released):
                self._asks.want(asks)
                self._nodes.give_back(released)
            case KeepAlive(sent_at, lease_s):
                self._heartbeat.renewed(Renewal(sent_at, lease_s))
                self._beat()

    def _look_after(self) -> None:
        from celeray.actors.nodes import TICK_S

        try:
            while not self._stopping.wait(TICK_S):
                # First: what an ask has is removed there, and the leases of the node that came can have it.
                self._asks.step()
                self._nodes.tick()
                self._executors.check()
                self._beat()
        except Exception as error:
            if not self._stopping.is_set():
                logger.exception("the cluster can't be looked after")
                self._port.give_up(describe(error))

    def _beat(self) -> None:
        self._heartbeat.tick(self._nodes.agents(), self._executors.processes())

    def _watch_ray(self) -> None:
        while not self._stopping.wait(1.0):
            if (silence := time.monotonic() - self._nodes.answered_at) > UNANSWERED_LIMIT_S:
                self._port.give_up(f"Ray has not answered for {silence:.0f} s")


def _executor_of(command: Command) -> str | None:
    """The executor that can't be relied on once the command failed; None: none."""
    match command:
        case StartExecutor(spec):
            return spec.executor_id
        case Run(executor_id) | StopExecutor(executor_id):
            return executor_id
        case _:
            return None


def main() -> None:
    """Connect, serve, disconnect, exit."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/ray-driver] %(message)s")
    # A Ctrl-C in the terminal is the bridge's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    port = EventPort(connection)
    (config, *early) = channel.receive(connection)
    assert isinstance(config, DriverConfig)
    limit = Timer(CONNECT_LIMIT_S, port.give_up, (f"Ray was not up within {CONNECT_LIMIT_S:.0f} s",))
    limit.daemon = True
    limit.start()
    try:
        address = ray_session.connect(config)
        driver = Driver(connection, port, config)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises, the bridge gets to know it
        logger.warning("Ray is not reachable: %s", error)
        port.give_up(describe(error))
    limit.cancel()
    port.emit(ClusterUp(address))
    code = driver.serve(early)
    _leave(code)


def _leave(code: int) -> None:
    import ray

    limit = Timer(LEAVE_LIMIT_S, os._exit, (UNREACHABLE,))
    limit.daemon = True
    limit.start()
    ray.shutdown()
    # Threads that wait for deaths have nobody left to tell.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
