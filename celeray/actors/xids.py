"""XIDs: errors that the driver reports of a device, as events. A device with one that is not the task's own is bad.

NVML tells each event once, to whoever waits for it, so one thread a node waits and keeps what it was told. The errors
of a task (a bad address, a breakpoint, its end by the driver) say nothing about the device and are only counted. Any
other marks it, until a canary has passed, an operator has looked at it, or the node agent is started anew;
`celeray.actors.xid_catalog` says after which ones a canary is allowed.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from celeray.actors.nvml_query import DeviceLostError, DriverLostError, query, query_or
from celeray.actors.xid_catalog import APPLICATION_XIDS, describe, may_try_canary
from celeray.scheduler.model import DeviceReading, Health

WAIT_MS = 1000
"""Of one wait, so that the end of the thread is not waited for long."""
RETRY_S = 5.0
"""Between tries where the driver or a device does not answer: a wait that fails at once must not spin."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Heard:
    """What is waited on."""

    events: Any
    """NVML's event set."""
    uuids: Mapping[int | None, str]
    """By the address of the handle: a device that has fallen off the bus does not tell its UUID any more."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What keeps a device out."""

    xids: tuple[int, ...]
    """In the order in which they came first."""
    at: float
    """Of the newest one, in epoch seconds."""

    @property
    def by_canary(self) -> bool:
        """Whether a canary may take the device back."""
        return may_try_canary(self.xids)


class XidWatch:
    """Waits in a thread of its own from `start` on. The counts are since then."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: epoch seconds.
        """
        self._now = now
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[int]] = {}
        self._marks: dict[str, Mark] = {}
        self._cards: dict[str, str] = {}
        self._heard: _Heard | None = None
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
        return tuple(map(self._mark, devices))

    def _mark(self, device: DeviceReading) -> DeviceReading:
        uuid = device.card_uuid or device.uuid
        with self._lock:
            self._cards[device.uuid] = uuid
            counts = tuple(sorted(self._counts.get(uuid, Counter()).items()))
            mark = self._marks.get(uuid)
        if mark is None:
            return replace(device, xids=counts)
        marked = replace(device, xids=counts, marked_at=mark.at)
        if device.health is Health.UNHEALTHY:
            return marked
        return replace(marked, health=Health.UNHEALTHY, health_reason=describe(mark.xids[0]))

    def card_of(self, uuid: str) -> str:
        """The card of a slice, as far as a reading has shown it; a card is its own."""
        with self._lock:
            return self._cards.get(uuid, uuid)

    def marks(self) -> dict[str, Mark]:
        """What keeps devices out, by UUID of the card."""
        with self._lock:
            return dict(self._marks)

    def forgive(self, uuid: str, up_to: float) -> bool:
        """Let the XIDs that came up to a time keep the device out no longer; whether any did.

        Where a later one came, all of them stay: it may be the same fault.

        Args:
            uuid: of the card.
            up_to: epoch seconds.
        """
        with self._lock:
            mark = self._marks.get(uuid)
            if mark is None or mark.at > up_to:
                return False
            del self._marks[uuid]
        logger.warning("device %s is taken back: %s is forgiven", uuid, describe(mark.xids[0]))
        return True

    def note(self, uuid: str, xid: int) -> None:
        """One event was told."""
        with self._lock:
            self._counts.setdefault(uuid, Counter())[xid] += 1
            if xid in APPLICATION_XIDS:
                logger.warning("%s on device %s, which is an error of its task", describe(xid), uuid)
                return
            known = self._marks[uuid].xids if uuid in self._marks else ()
            self._marks[uuid] = Mark(known if xid in known else (*known, xid), self._now())
        logger.error("%s on device %s: nothing new runs there", describe(xid), uuid)

    def wait_once(self, timeout_ms: int = WAIT_MS) -> bool:
        """Wait for one event, and note it. False: none came.

        Raises:
            DeviceLostError, DriverLostError: a device or the driver does not answer.
        """
        if self._heard is None:
            self._heard = _register_all()
        if not self._heard.uuids:
            self._stopping.wait(timeout_ms / 1000)
            return False
        event, _ = query_or(pynvml.nvmlEventSetWait_v2, self._heard.events, timeout_ms)
        if event is None or event.eventType != pynvml.nvmlEventTypeXidCriticalError:
            return False
        if (uuid := self._heard.uuids.get(_address(event.device))) is not None:
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
                self._heard = None
                self._stopping.wait(RETRY_S)
            except Exception:
                logger.exception("waiting for XIDs failed")
                self._stopping.wait(RETRY_S)


def _register_all() -> _Heard:
    """Every device that can tell; of none where NVML or none of them can.

    Raises:
        DriverLostError: NVML does not answer.
    """
    query(pynvml.nvmlInit)
    if (events := query(pynvml.nvmlEventSetCreate)) is None:
        return _Heard(None, {})
    uuids: dict[int | None, str] = {}
    for index in range(query(pynvml.nvmlDeviceGetCount) or 0):
        try:
            uuids.update(_register(index, events))
        except DeviceLostError as error:
            logger.warning("device %d is not heard: %s", index, error)
    return _Heard(events, uuids)


def _register(index: int, events: Any) -> dict[int | None, str]:
    handle = query(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else query(pynvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return {}
    supported = query(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
    if not supported & pynvml.nvmlEventTypeXidCriticalError:
        return {}
    _, code = query_or(pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, events)
    return {_address(handle): uuid} if code is None else {}


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
