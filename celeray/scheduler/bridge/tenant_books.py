"""What each tenant has used of the VRAM: MiB that its runs' executors reserve, times milliseconds.

An executor counts for a tenant from when it gets the tenant's runs until the last of them has ended; a batch is of one
tenant. What is under way is entered again and again, so that a long run counts before it ends, and what it is still
expected to take is added where turns are decided. Idle and starting warm executors count for nobody.

What is used is kept by slices of time, `SLICES_A_HALF_LIFE` to a half-life, and weighs less by one step with each slice
that has passed: so it halves with each half-life, to within a step (9 %), what several bridges have used adds up in any
order, and after `SLICES_MOST` slices (eight half-lives, 0.4 %) it is forgotten. Nothing is counted before a message has
named a tenant.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.clock import Clock
from celeray.scheduler.placement.fair_share import charged_mib
from celeray.scheduler.tenants import NOBODY

SLICES_A_HALF_LIFE = 8
SLICES_MOST = 8 * SLICES_A_HALF_LIFE
TENANTS_MOST = 1_000
"""Tenants that are known at once. What more of them use is counted with the tasks of no tenant."""
ONE = 1 << 16
WEIGHTS = tuple(round(ONE * 2 ** (-age / SLICES_A_HALF_LIFE)) for age in range(SLICES_MOST))
"""By how many slices have passed."""

Slices = dict[int, dict[str, int]]
"""MiB times milliseconds by number of the slice and tenant."""


@dataclass(slots=True)
class _Held:
    """An executor that has runs of a tenant."""

    tenant: str
    mib: int
    began_ms: int
    entered_ms: int
    """Up to when it is in the books."""
    expected_ms: int = 0
    runs: int = 0


class TenantBooks:
    """Of one bridge. `take`, `told` and `heard` are another thread's; all else belongs to the consumer thread."""

    def __init__(self, clock: Clock, *, half_life_s: float = 1800.0, unknown_run_ms: int = 3_600_000) -> None:
        self.slice_ms = max(1, round(half_life_s * 1000 / SLICES_A_HALF_LIFE))
        self.named = False
        """Whether any message has named a tenant."""
        self.totals: dict[str, int] = {}
        """MiB times milliseconds since the bridge started, undiminished."""
        self._clock = clock
        self._unknown_run_ms = unknown_run_ms
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._own: Slices = {}
        """Not handed out yet."""
        self._taken: Slices = {}
        """Handed out, and not told yet."""
        self._everyone: Slices = {}
        """As all bridges have told it."""
        self._sums: dict[str, int] = {}
        """All three, weighed as of `_summed_at`, times `ONE`."""
        self._summed_at = -1

    # What runs

    def begin(self, run: Run, executor: Executor) -> None:
        """The executor has the run from now on."""
        tenant = run.task.tenant
        if tenant is None and not self.named:
            return
        self.named = True
        held = self._held.get(executor.executor_id)
        if held is None:
            now, mib = self._now_ms(), charged_mib(executor.memory_mib, len(executor.device_uuids))
            held = self._held[executor.executor_id] = _Held(tenant or NOBODY, mib, now, now)
        held.runs += 1
        expected_ms = run.task.expected_ms
        if expected_ms is None:
            held.expected_ms = max(held.expected_ms, self._unknown_run_ms)
        else:
            held.expected_ms += expected_ms

    def end(self, run: Run) -> None:
        """The executor has it no more."""
        held = self._held.get(run.executor_id or "")
        if held is None:
            return
        held.runs -= 1
        if held.runs <= 0:
            self._enter(held, self._now_ms())
            del self._held[run.executor_id or ""]

    # What turns are decided by

    def usage(self, tenants: Iterable[str]) -> dict[str, int]:
        """What these have used, halved with each half-life, and what their runs are expected to use yet."""
        wanted = list(tenants)
        if not wanted:
            return {}
        now = self._now_ms()
        ahead: dict[str, int] = {}
        for held in self._held.values():
            self._enter(held, now)
            left_ms = held.began_ms + held.expected_ms - now
            if left_ms > 0:
                ahead[held.tenant] = ahead.get(held.tenant, 0) + held.mib * left_ms
        with self._lock:
            sums = self._summed()
            full = len(sums) >= TENANTS_MOST
            used = {
                tenant: sums.get(NOBODY if full and tenant not in sums else tenant, 0) // ONE
                for tenant in wanted
            }
        return {tenant: mib_ms + ahead.get(tenant, 0) for tenant, mib_ms in used.items()}

    def known(self) -> dict[str, int]:
        """What all tenants have used that are known, as `usage` has it."""
        for held in self._held.values():
            self._enter(held, self._now_ms())
        with self._lock:
            return {tenant: used // ONE for tenant, used in self._summed().items()}

    def running(self) -> dict[str, int]:
        """Runs that executors have, by tenant."""
        counts: dict[str, int] = {}
        for held in self._held.values():
            counts[held.tenant] = counts.get(held.tenant, 0) + held.runs
        return counts

    def _enter(self, held: _Held, now_ms: int) -> None:
        used, held.entered_ms = held.mib * (now_ms - held.entered_ms), now_ms
        if used <= 0:
            return
        with self._lock:
            sums = self._summed()
            name = held.tenant if held.tenant in sums or len(sums) < TENANTS_MOST else NOBODY
            sums[name] = sums.get(name, 0) + used * ONE
            of_slice = self._own.setdefault(self._summed_at, {})
            of_slice[name] = of_slice.get(name, 0) + used
        name = held.tenant if held.tenant in self.totals or len(self.totals) < TENANTS_MOST else NOBODY
        self.totals[name] = self.totals.get(name, 0) + used

    def _summed(self) -> dict[str, int]:
        """The sums as of the slice that is now. With the lock."""
        number = int(self._clock.time() * 1000) // self.slice_ms
        if number != self._summed_at:
            self._summed_at = number
            self._sums = {}
            for slices in (self._everyone, self._taken, self._own):
                for at, of_slice in slices.items():
                    # The clock of another bridge may be ahead.
                    age = max(0, number - at)
                    for tenant, used in of_slice.items() if age < SLICES_MOST else ():
                        self._sums[tenant] = self._sums.get(tenant, 0) + used * WEIGHTS[age]
        return self._sums

    def _now_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    # Between bridges

    def take(self) -> Slices:
        """What is to be told: all that was used since, and what was taken before and could not be told."""
        with self._lock:
            _add(self._taken, self._own)
            self._own = {}
            self._forget(self._taken)
            return {number: dict(of_slice) for number, of_slice in self._taken.items()}

    def told(self) -> None:
        """What was taken is everyone's now."""
        with self._lock:
            _add(self._everyone, self._taken)
            self._taken = {}

    def heard(self, everyone: Mapping[int, Mapping[str, int]]) -> None:
        """What all bridges have told, of the slices that are named."""
        with self._lock:
            self._everyone |= {number: dict(of_slice) for number, of_slice in everyone.items()}
            self._forget(self._everyone)
            self._summed_at = -1

    def _forget(self, slices: Slices) -> None:
        oldest = int(self._clock.time() * 1000) // self.slice_ms - SLICES_MOST
        for number in [number for number in slices if number <= oldest]:
            del slices[number]


def _add(total: Slices, more: Mapping[int, Mapping[str, int]]) -> None:
    for number, of_slice in more.items():
        into = total.setdefault(number, {})
        for tenant, used in of_slice.items():
            into[tenant] = into.get(tenant, 0) + used
