"""One life of the child process that drives Ray, as the bridge sees it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Condition, Thread
from typing import Any

from celeray.actors import channel
from celeray.actors.channel import Command, DriverConfig

DRIVER_MODULE = "celeray.actors.driver"
SEND_BUFFER_BYTES = 4 * 1024 * 1024
"""Asked for; the kernel may give less. What does not fit waits in memory."""


class DriverProcess:
    """Spawns the child, writes commands to it and reads its events.

    A command is written by the caller's own thread while the pipe has room: handing it to another thread would cost
    the caller's GIL first, up to 5 ms on a busy consumer. When the pipe is full a thread writes the rest.

    The child sees the end of the pipe when the bridge dies, however that happens, and ends itself.
    """

    def __init__(
        self, config: DriverConfig, log_file: str | None = None, *, module: str = DRIVER_MODULE
    ) -> None:
        """Spawn the child; it gets `config` as its first frame.

        Args:
            config: what the driver needs to connect.
            log_file: where its output goes, appended. None: this process's own output.
            module: what the child runs, with the file descriptor of its end of the pipe as argument.
        """
        parent, child = socket.socketpair()
        parent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        with child:
            self._process = _spawn(module, child.fileno(), log_file)
        self._socket = parent
        self._events = Connection(os.dup(parent.fileno()))
        self._changed = Condition()
        self._unsent: deque[memoryview] = deque()
        self._closed = False
        self._writer = Thread(target=self._write, name="celeray-driver-writer", daemon=True)
        self._writer.start()
        self.put(config)

    @property
    def pid(self) -> int:
        return self._process.pid

    def put(self, command: Command | DriverConfig) -> None:
        """Hand over a command; never blocks. Commands to a dead child are dropped."""
        body = channel.encode((command,))
        # The framing of multiprocessing.connection, which reads it at the other end.
        frame = memoryview(struct.pack("!i", len(body)) + body)
        with self._changed:
            if not self._unsent:
                frame = frame[self._send_now(frame) :]
            if frame:
                self._unsent.append(frame)
                self._changed.notify()

    def receive(self) -> tuple[Any, ...]:
        """The next frame of events; blocks.

        Raises:
            EOFError, OSError: the child is gone.
        """
        return channel.receive(self._events)

    def close(self, timeout_s: float) -> int:
        """Wait for the child's end, kill it after `timeout_s` seconds, and return its exit code."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._socket.close()
        self._events.close()
        return code

    def _send_now(self, frame: memoryview) -> int:
        """Bytes that the pipe took at once; all of them where the child is gone."""
        try:
            return self._socket.send(frame, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return len(frame)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._closed)
                if self._closed:
                    return
                frame = self._unsent[0]
            # Outside the lock, since it blocks; the frame stays first in line, so nobody overtakes it.
            with suppress(OSError):
                self._socket.sendall(frame)
            with self._changed:
                self._unsent.popleft()


def _spawn(module: str, fd: int, log_file: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, str(fd)]
    # A session of its own: Ctrl-C in a terminal reaches the bridge alone, which then stops the child.
    if log_file is None:
        return subprocess.Popen(command, pass_fds=(fd,), start_new_session=True)  # noqa: S603
    with open(log_file, "ab") as log:
        return subprocess.Popen(  # noqa: S603
            command, pass_fds=(fd,), start_new_session=True, stdout=log, stderr=log
        )


def redirect_target(path: str | os.PathLike[str] | None) -> str | None:
    """Absolute path of the child's log, its folder made; None: inherit the bridge's output."""
    if path is None:
        return None
    absolute = os.path.abspath(path)
    os.makedirs(os.path.dirname(absolute), exist_ok=True)
    return absolute
