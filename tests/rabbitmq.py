"""A RabbitMQ of a test's own: on free ports, in a folder of its own, with its own node name, cookie and epmd.

It is looked for in RABBITMQ_SERVER_BIN, a folder with the scripts, then where Debian has them, then on PATH.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from kombu import Connection

VARIABLE = "RABBITMQ_SERVER_BIN"
DEBIAN = Path("/usr/lib/rabbitmq/bin")
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 60.0


def scripts() -> Path | None:
    """The folder with RabbitMQ's scripts. None: there is no RabbitMQ."""
    named = os.environ.get(VARIABLE)
    found = shutil.which("rabbitmq-server")
    places = [Path(named)] if named else [DEBIAN, *([Path(found).resolve().parent] if found else [])]
    return next((place for place in places if (place / "rabbitmq-server").is_file()), None)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class RabbitServer:
    """One node, started and stopped by pid."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (folder / "plugins").write_text("[].\n")
        self._folder, self._bin, self.port = folder, bin_folder, free_port()
        self._names_port = free_port()
        self._env = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_NODENAME": f"celeray-{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        (folder / "rabbitmq.conf").write_text("loopback_users.guest = true\nlog.console = false\n")
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> RabbitServer:
        # A node starts an epmd where there is none, and leaves it running.
        epmd = shutil.which("epmd") or "epmd"
        self._run(epmd, "-address", "127.0.0.1", "-port", str(self._names_port))
        node = self._run(str(self._bin / "rabbitmq-server"))
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert node.poll() is None, self._said()
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """The node, then its epmd. Again changes nothing."""
        while self._processes:
            process = self._processes.pop()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "out.log").open("ab") as output:
            made = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(made)
        return made

    def _answers(self) -> bool:
        with suppress(OSError), Connection(self.url, connect_timeout=2) as connection:
            connection.connect()
            return True
        return False

    def _said(self) -> str:
        return (self._folder / "out.log").read_text("utf-8", "replace")[-3000:]
