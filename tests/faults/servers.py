"""Redis servers that tests break: one alone, and a master with two replicas under three Sentinels."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import redis

from celeray.scheduler.embedded_redis import EmbeddedRedis, find_server, free_port
from tests.faults.proxy import Proxy

MASTER = "main"
SENTINELS = 3
REPLICAS = 2
DOWN_AFTER_MS = 1500
"""So long must a master be silent before Sentinels count it as down."""


def until(condition: Callable[[], Any], what: str, deadline_s: float = 30.0, every_s: float = 0.02) -> Any:
    """Poll until `condition()` is true and return what it returned."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(every_s)
    return found


@cache
def debug_option() -> tuple[str, ...]:
    """Redis 7 refuses DEBUG unless told otherwise; Redis 6 does not know the option."""
    version = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", version)
    return ("--enable-debug-command", "yes") if found and int(found[1]) >= 7 else ()


class Broker:
    """A server alone."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.server = EmbeddedRedis(folder, options=(*debug_option(), *options))

    def start(self) -> Broker:
        self.server.start()
        return self

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.server.stop()

    def signal(self, signum: int) -> None:
        if (pid := self.server.pid) is not None:
            os.kill(pid, signum)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        until(lambda: self.server.pid is None, "the server is dead")
        self.server.stop()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def options(self) -> dict[str, Any]:
        """Of the transport, to find it."""
        return {}

    def client(self) -> Any:
        """A client for looking."""
        return redis.Redis(port=self.server.port, socket_timeout=10, socket_connect_timeout=2)


class ReplicatedBroker:
    """A master behind a proxy, two replicas, three Sentinels. Everyone reaches the first master through the proxy.

    Two replicas, so that the promoted one has another that can confirm what is published.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.master = Broker(folder / "master", *options)
        self.proxy = Proxy(self.master.server.port)
        self.replicas: list[Broker] = []
        self._options = options
        self._sentinels: list[tuple[int, subprocess.Popen[bytes]]] = []

    def start(self) -> ReplicatedBroker:
        self.master.start()
        self.proxy.start()
        # So a replica's own address of its master is what the Sentinels know, and they leave it alone.
        for number in range(REPLICAS):
            options = ("--replicaof", "127.0.0.1", str(self.proxy.port), *self._options)
            self.replicas.append(Broker(self.folder / f"replica-{number}", *options).start())
        until(self._synced, "the replicas have the master's data")
        for number in range(SENTINELS):
            self._start_sentinel(number)
        until(self._watched, "the Sentinels know everyone", 40)
        return self

    def _start_sentinel(self, number: int) -> None:
        port, folder = free_port(), self.folder / f"sentinel-{number}"
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.proxy.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} 6000\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [find_server(), str(config), "--sentinel"], stdout=log, stderr=subprocess.STDOUT
            )
        self._sentinels.append((port, process))

    def _synced(self) -> bool:
        return all(info(replica).get("master_link_status") == "up" for replica in self.replicas)

    def _watched(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return all(
                len(self.ask(port, "replicas", MASTER)) == REPLICAS
                and len(self.ask(port, "sentinels", MASTER)) == SENTINELS - 1
                for port, _process in self._sentinels
            )
        return False

    def ask(self, port: int, *command: str) -> Any:
        with redis.Redis(port=port, socket_timeout=5) as client:
            return client.execute_command("SENTINEL", *command)

    def failover(self) -> None:
        """`SENTINEL FAILOVER`: a planned one."""
        until(self._begin_failover, "the sentinel has heard of a replica", 40)

    def _begin_failover(self) -> bool:
        try:
            self.ask(self._sentinels[0][0], "failover", MASTER)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGOODSLAVE"):
                raise
            return False
        return True

    def promoted(self) -> Broker | None:
        """The replica that is master now."""
        for replica in self.replicas:
            with contextlib.suppress(redis.RedisError):
                if info(replica)["role"] == "master":
                    return replica
        return None

    def await_promotion(self) -> None:
        """Until a replica is master, a majority of Sentinels says so, and the other one follows it."""

        def done() -> bool:
            if (master := self.promoted()) is None:
                return False
            with contextlib.suppress(redis.RedisError):
                port = str(master.server.port).encode()
                told = [self.ask(p, "get-master-addr-by-name", MASTER) for p, _process in self._sentinels]
                follows = int(info(master)["connected_slaves"]) >= REPLICAS - 1
                return follows and sum(answer[1] == port for answer in told) > SENTINELS // 2
            return False

        until(done, "a replica is master", 40)

    def kill_master(self) -> None:
        """The machine is gone: connections reset, the port closed, the process dead."""
        self.master.kill()
        self.proxy.refuse()

    def stop(self) -> None:
        for _port, process in self._sentinels:
            process.terminate()
        for _port, process in self._sentinels:
            process.wait(10)
        for replica in self.replicas:
            replica.stop()
        self.master.stop()
        self.proxy.stop()

    @property
    def url(self) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}" for port, _process in self._sentinels)

    @property
    def options(self) -> dict[str, Any]:
        return {"master_name": MASTER, "min_other_sentinels": 0}

    def client(self) -> Any:
        """A client of whoever is master now."""
        return (self.promoted() or self.master).client()


def info(broker: Broker) -> dict[str, Any]:
    """INFO replication."""
    with broker.client() as client:
        return dict(client.info("replication"))
