"""XIDs: errors that the driver reports of a device, as events. A device with one that is not the task's own is bad.

NVML tells each event once, to whoever waits for it, so one thread a node waits and keeps what it was told. The errors
of a task (a bad address, a breakpoint, its end by the driver) say nothing about the device: NVIDIA's device plugin for
Kubernetes ignores the same ones (k8s-device-plugin, internal/rm/health.go).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pynvml

from celeray.actors.nvml_query import DeviceLostError, DriverLostError, query, query_or
from celeray.scheduler.model import MIG_INDEX_STEP, DeviceReading, Health

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Caused by what a task does; counted, and the device stays healthy."""
NAMES = {
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "the GPU's system processor does not answer",
    120: "error of the GPU's system processor",
}
"""Of the common ones, for the reason that is shown; https://docs.nvidia.com/deploy/xid-errors has all."""
WAIT_MS = 1000
"""Of one wait, so that the end of the thread is not waited for long."""
RETRY_S = 5.0
"""Between tries where the driver or a device does not answer: a wait that fails at once must not spin."""

logger = logging.getLogger(__name__)


class XidWatch:
    """Waits in a thread of its own from `start` on. The counts are since then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[int]] = {}
        self._critical: dict[str, int] = {}
        self._set: Any = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Wait for events from now on."""
        self._thread = threading.Thread(target=self._run, name="celeray-xids", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(WAIT_MS / 1000 + RETRY_S)

    def mark(self, devices: Iterable[DeviceReading]) -> tuple[DeviceReading, ...]:
        """Readings of a node's devices with what is known of each. A MIG slice has its card's errors."""
        found = tuple(devices)
        cards = {device.index: device.uuid for device in found}
        return tuple(
            self._mark(device, cards.get(device.index // MIG_INDEX_STEP, device.uuid)) for device in found
        )

    def _mark(self, device: DeviceReading, card: str) -> DeviceReading:
        uuid = device.uuid if device.index < MIG_INDEX_STEP else card
        with self._lock:
            counts = tuple(sorted(self._counts.get(uuid, Counter()).items()))
            critical = self._critical.get(uuid)
        if critical is None or device.health is Health.UNHEALTHY:
            return replace(device, xids=counts)
        return replace(device, xids=counts, health=Health.UNHEALTHY, health_reason=describe(critical))

    def note(self, uuid: str, xid: int) -> None:
        """One event was told."""
        with self._lock:
            self._counts.setdefault(uuid, Counter())[xid] += 1
            if xid in APPLICATION_XIDS:
                logger.warning("%s on device %s, which is an error of its task", describe(xid), uuid)
                return
            self._critical.setdefault(uuid, xid)
        logger.error("%s on device %s: nothing new runs there", describe(xid), uuid)

    def wait_once(self, timeout_ms: int = WAIT_MS) -> bool:
        """Wait for one event, and note it. False: none came.

        Raises:
            DeviceLostError, DriverLostError: a device or the driver does not answer.
        """
        if self._set is None:
            self._set = _register_all()
        if self._set is None:
            self._stopping.wait(timeout_ms / 1000)
            return False
        event, _ = query_or(pynvml.nvmlEventSetWait_v2, self._set, timeout_ms)
        if event is None or event.eventType != pynvml.nvmlEventTypeXidCriticalError:
            return False
        if (uuid := query(pynvml.nvmlDeviceGetUUID, event.device)) is not None:
            self.note(uuid, int(event.eventData))
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.wait_once()
            except DeviceLostError:
                # Readings say so; the set goes on to tell of the others.
                self._stopping.wait(RETRY_S)
            except DriverLostError:
                self._set = None
                self._stopping.wait(RETRY_S)
            except Exception:
                logger.exception("waiting for XIDs failed")
                self._stopping.wait(RETRY_S)


def describe(xid: int) -> str:
    """An XID in words, as far as it is a common one."""
    return f"XID {xid}" + (f": {NAMES[xid]}" if xid in NAMES else "")


def _register_all() -> Any:
    """An event set that hears of every device that can tell; None where none can.

    Raises:
        DriverLostError: NVML does not answer.
    """
    query(pynvml.nvmlInit)
    events = query(pynvml.nvmlEventSetCreate)
    if events is None:
        return None
    heard = False
    for index in range(query(pynvml.nvmlDeviceGetCount) or 0):
        try:
            heard |= _register(index, events)
        except DeviceLostError as error:
            logger.warning("device %d is not heard: %s", index, error)
    return events if heard else None


def _register(index: int, events: Any) -> bool:
    handle = query(pynvml.nvmlDeviceGetHandleByIndex, index)
    supported = 0 if handle is None else query(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
    if not supported & pynvml.nvmlEventTypeXidCriticalError:
        return False
    _, code = query_or(pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, events)
    return code is None
