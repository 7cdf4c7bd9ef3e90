"""Runs canaries on the devices of a node that an XID keeps out, and takes a device back when its canary passes.

Only after XIDs that `celeray.actors.xid_catalog` allows it for, one at a time, at most one an interval on each device,
and `PASSES_MAX` times in all until an operator has looked: a device that fails again and again costs a task each time.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread

from celeray.actors.canary import PASSED
from celeray.actors.xids import Mark, XidWatch
from celeray.scheduler.model import DeviceReading

TIMEOUT_S = 120.0
"""Of one canary: the import of a framework takes seconds, on a busy machine many."""
KILL_S = 5.0
"""How long the death of one that did not answer is waited for."""
PASSES_MAX = 3
"""Canaries of one device that may take it back."""
TICK_S = 0.5
REASON_MAX_CHARS = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tries:
    """Of one device."""

    next_at: float = 0.0
    """Monotonic seconds."""
    passes: int = 0
    failure: str | None = None
    """Of the last one; None: it passed, or there was none since the mark."""


class Canaries:
    """One a node agent. A thread of its own runs them, from the first interval above 0 on."""

    def __init__(
        self,
        xids: XidWatch,
        run: Callable[[str], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            run: runs a canary on the device with a UUID; why it failed, or None.
            clock: monotonic seconds.
        """
        self._xids = xids
        self._run = run or run_canary
        self._clock = clock
        self._interval_s = 0.0
        self._lock = Lock()
        self._tries: dict[str, _Tries] = {}
        self._thread: Thread | None = None
        self._stopping = Event()

    def set_interval(self, seconds: float) -> None:
        """Time between two canaries on a device from now on; 0: none. Safe to call often."""
        self._interval_s = seconds

    def start(self) -> None:
        """Run what is due from now on."""
        self._thread = Thread(target=self._loop, name="celeray-canaries", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more canaries; one that runs is not waited for."""
        self._stopping.set()

    def forgiven(self, uuid: str) -> None:
        """An operator has looked at the device: its canaries are counted anew."""
        with self._lock:
            self._tries.pop(uuid, None)

    def run_once(self) -> None:
        """Run the canaries that are due, one after the other."""
        for uuid, mark in self._xids.marks().items():
            if self._is_due(uuid, mark):
                self._try(uuid, mark)

    def remedies(self, devices: Iterable[DeviceReading]) -> tuple[DeviceReading, ...]:
        """The readings, with what takes each device back that is marked."""
        marks = self._xids.marks()
        return tuple(
            replace(device, remedy=self._remedy(uuid, marks[uuid]))
            if (uuid := device.card_uuid or device.uuid) in marks
            else device
            for device in devices
        )

    def _is_due(self, uuid: str, mark: Mark) -> bool:
        with self._lock:
            tries = self._tries.get(uuid, _Tries())
        allowed = mark.by_canary and tries.passes < PASSES_MAX
        return allowed and self._interval_s > 0 and self._clock() >= tries.next_at

    def _try(self, uuid: str, mark: Mark) -> None:
        failure = self._run(uuid)
        with self._lock:
            before = self._tries.get(uuid, _Tries())
            passes = before.passes + (failure is None)
            self._tries[uuid] = _Tries(self._clock() + self._interval_s, passes, failure)
        if failure is None:
            logger.warning("the canary on device %s has passed", uuid)
            # Not an XID that came while it ran.
            self._xids.forgive(uuid, mark.at)
        elif failure != before.failure:
            logger.warning("the canary on device %s has failed: %s", uuid, failure)

    def _remedy(self, uuid: str, mark: Mark) -> str:
        with self._lock:
            tries = self._tries.get(uuid, _Tries())
        if not mark.by_canary:
            return "reset the GPU or restart the node, then `celeray undrain device UUID`"
        if tries.passes >= PASSES_MAX:
            return f"`celeray undrain device UUID`: {PASSES_MAX} canaries took it back, and it failed again"
        if self._interval_s <= 0:
            return "`celeray undrain device UUID`: canaries are switched off"
        last = f"; the last one failed: {tries.failure}" if tries.failure else ""
        return f"a canary, every {self._interval_s:g} s{last}"

    def _loop(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self.run_once()
            except Exception:
                logger.exception("canaries failed")


def run_canary(uuid: str) -> str | None:
    """Run one in a process of its own; why it failed, or None."""
    # -P: a file of the working folder must not stand for a module of celeray.
    command = [sys.executable, "-P", "-m", "celeray.actors.canary", uuid]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module, and a UUID that NVML gave
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        return f"it can't be started: {error}"
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        # Not longer: one that hangs in the driver can't be killed.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=KILL_S)
        return f"no answer within {TIMEOUT_S:.0f} s"
    last = (said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"])[0]
    # The word, too: where somebody else waits for this process's children, the exit code reads as 0.
    return None if process.returncode == 0 and last == PASSED else last[:REASON_MAX_CHARS]
