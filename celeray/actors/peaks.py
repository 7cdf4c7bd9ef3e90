"""The VRAM peak of each run, kept by the executor itself, which knows when a run begins and ends.

Three looks make it. A thread looks every `interval_s` while a task runs, and sleeps while none does. The main thread
looks at a run's end, but not more often than every `END_INTERVAL_S`: a look asks the driver, and short tasks end
thousands of times a second; a run that nobody looked at has no peak, and is no observation. And an allocator that keeps
its own peak is asked, which no spike escapes. The largest counts; of a batch, all its runs have the same one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from celeray.actors.allocators import CONTEXT_MIB, TorchMemory
from celeray.actors.meters import Meter, Use
from celeray.scheduler.model import Attribution

END_INTERVAL_S = 0.05


class Peak(NamedTuple):
    """Of one run or batch, on the device on which it used most."""

    mib: int
    attribution: Attribution


class PeakWatch:
    """Of one executor with devices. `begin` and `end` are called in the main thread, one after the other."""

    def __init__(
        self,
        meter: Meter,
        devices: int,
        interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            devices: of the executor, at least 1.
            interval_s: between two looks of the thread, above 0.
        """
        self._meter = meter
        self._torch = TorchMemory(devices)
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._run = 0
        """Number of the run or batch; a look that began in an earlier one is dropped."""
        self._running = False
        self._most: Use = (None,) * devices
        self._beside: Use = (None,) * devices
        """What the process has on each device besides torch's own, as seen last: context, kernels, other libraries."""
        self._looked_at = -END_INTERVAL_S
        self._active = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A run or a batch begins."""
        with self._lock:
            self._run += 1
            self._most = (None,) * len(self._most)
        self._meter.begin()
        self._torch.begin()
        self._running = True
        if not self._active.is_set():
            self._wake()

    def end(self) -> Peak | None:
        """It has ended. None: nobody looked meanwhile, nothing can be told, or nothing was used."""
        self._running = False
        if self._clock() - self._looked_at >= END_INTERVAL_S:
            self.look()
        seen = larger(self._most, self._meter.most())
        allocated = self._torch.most_mib()
        if allocated is not None and any(allocated):
            return self._with_allocator(seen, allocated)
        mib = max((item for item in seen if item is not None), default=0)
        return Peak(mib, self._meter.attribution) if mib else None

    def look(self) -> None:
        """Look at the devices once. A look that ends in a later run than it began is forgotten."""
        run = self._run
        self._looked_at = self._clock()
        used, reserved = self._meter.used(), self._torch.reserved_mib()
        with self._lock:
            if run != self._run:
                return
            self._most = larger(self._most, used)
            if reserved is not None:
                self._beside = tuple(
                    None if item is None else max(0, item - own)
                    for item, own in zip(used, reserved, strict=True)
                )

    def _with_allocator(self, seen: Use, allocated: list[int]) -> Peak:
        """By reservation the rest is only an assumption: what is seen there may be a neighbour's as well."""
        told = self._meter.attribution is Attribution.PID
        beside = self._beside if told else (None,) * len(allocated)
        sums = tuple(
            own + (CONTEXT_MIB if rest is None else rest) if own else None
            for own, rest in zip(allocated, beside, strict=True)
        )
        if not told:
            return Peak(max(item or 0 for item in sums), Attribution.ALLOCATOR)
        return Peak(max(item or 0 for item in larger(seen, sums)), Attribution.PID)

    def _wake(self) -> None:
        self._active.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="celeray-peaks", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while True:
            self._active.wait()
            time.sleep(self._interval_s)
            if self._running:
                self.look()
                continue
            self._active.clear()
            if self._running:
                # A run began after the check, and found it awake.
                self._active.set()


def larger(one: Use, other: Use) -> Use:
    """Of each device the larger, where both are known."""
    return tuple(b if a is None else a if b is None else max(a, b) for a, b in zip(one, other, strict=True))
