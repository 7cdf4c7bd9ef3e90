"""Memory of ended holders that does not come back, by device.

The driver gives memory back when a process is gone, but not always: a child of the executor may live on, or the driver
keeps it. NVML then still lists the dead executor's pid or one that it started, or shows memory used for which it lists
nobody. What was there before the death is not counted, nor what a stranger uses whom NVML lists; so a stranger that
comes or goes makes no leak.

    debt of a holder = what its pids are still listed with
                     + what is used by nobody listed, above the least of it in the last readings before its death,
                       and no more than the holder had
    It only shrinks, with each reading, and it is gone when it is below `LEAST_MIB`.
    Past `after_s` seconds it is a leak.

Where NVML lists no processes, or one without its use, nothing can be said of who has what, and no debt arises.
Belongs to the ledger; all times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from celeray.scheduler.accounting import Leak, Reservation, belongs, listed_mib
from celeray.scheduler.model import DeviceReading, NodeReading

HISTORY_S = 10.0
"""Of readings that count. A death may be seen seconds after it happened, and those in between show it already."""
LEAST_MIB = 64
"""The driver itself takes and gives back some MiB as contexts come and go."""


@dataclass(slots=True)
class _Debt:
    """Of one ended holder on one device."""

    since: float
    pids: frozenset[int]
    """The holder's and those that it started, where NVML's pids can be matched."""
    listed_mib: int
    """What these are still listed with."""
    unlisted_mib: int
    baseline_mib: int
    """Used by nobody listed without this debt."""

    @property
    def mib(self) -> int:
        return self.listed_mib + self.unlisted_mib


class LeakBook:
    """Told of every reading and of every release; one a ledger."""

    def __init__(self, after_s: float) -> None:
        """
        Args:
            after_s: so long after its holder's death memory may take to come back.
        """
        self._after_s = after_s
        self._debts: dict[str, list[_Debt]] = {}
        self._history: dict[str, deque[tuple[float, DeviceReading]]] = {}

    def observe(self, node: NodeReading) -> None:
        """Take a node's reading: what has come back is owed no more."""
        for device in node.devices:
            history = self._history.setdefault(device.uuid, deque())
            # A holder that this reading releases died after the last one, however long ago that is.
            while history and history[0][0] < history[-1][0] - HISTORY_S:
                history.popleft()
            history.append((node.requested_at, device))
            if device.uuid in self._debts:
                self._shrink(device)

    def released(self, entry: Reservation, node: NodeReading) -> None:
        """A holder's room was given back by this reading, which `observe` has been told of."""
        for device in node.devices:
            if device.uuid in entry.device_uuids and (debt := self._debt(entry, device, node.pids_visible)):
                self._debts.setdefault(device.uuid, []).append(debt)

    def forget(self, uuids: Iterable[str]) -> None:
        """The devices are gone with their node."""
        for uuid in uuids:
            self._debts.pop(uuid, None)
            self._history.pop(uuid, None)

    def owed_mib(self, uuid: str) -> int:
        """What ended holders have not given back, however long ago."""
        return sum(debt.mib for debt in self._debts.get(uuid, ()))

    def leak(self, uuid: str, now: float) -> Leak | None:
        """What has not come back in its time; None: nothing."""
        due = [debt for debt in self._debts.get(uuid, ()) if now - debt.since >= self._after_s]
        if not due:
            return None
        owners = frozenset().union(*(debt.pids for debt in due))
        listed = {process.pid for process in self._history[uuid][-1][1].processes or ()}
        return Leak(
            sum(debt.mib for debt in due), tuple(sorted(owners & listed)), min(debt.since for debt in due)
        )

    def _shrink(self, device: DeviceReading) -> None:
        unlisted = unlisted_mib(device)
        if unlisted is None:
            return
        for debt in self._debts[device.uuid]:
            debt.listed_mib = min(debt.listed_mib, _used_by(device, debt.pids))
            debt.unlisted_mib = min(debt.unlisted_mib, max(0, unlisted - debt.baseline_mib))
        left = [debt for debt in self._debts[device.uuid] if debt.mib >= LEAST_MIB]
        if left:
            self._debts[device.uuid] = left
        else:
            del self._debts[device.uuid]

    def _debt(self, entry: Reservation, device: DeviceReading, pids_visible: bool) -> _Debt | None:
        unlisted, ended_at = unlisted_mib(device), entry.ended_at
        if unlisted is None or ended_at is None:
            return None
        seen = [(at, item) for at, item in self._history[device.uuid] if at <= ended_at]
        before = [item for at, item in seen if at >= seen[-1][0] - HISTORY_S]
        known = [found for item in before if (found := unlisted_mib(item)) is not None]
        if not known:
            return None
        pids = _family(entry.pid, (*before, device)) if pids_visible else frozenset[int]()
        had = max(_used_by(item, pids) for item in before) if pids_visible else entry.memory_mib
        listed = _used_by(device, pids)
        # An earlier debt may be younger than the least of `known`, and is not this one's.
        earlier = (debt.baseline_mib + debt.unlisted_mib for debt in self._debts.get(device.uuid, ()))
        baseline = max(min(known), *earlier, 0)
        unlisted_of_it = min(max(0, unlisted - baseline), max(0, had - listed))
        debt = _Debt(ended_at, pids, listed, unlisted_of_it, baseline)
        return debt if debt.mib >= LEAST_MIB else None


def unlisted_mib(device: DeviceReading) -> int | None:
    """Used by nobody whom NVML lists; None where it does not tell who uses what.

    Of memory that is the host's too, the host's own processes use the rest: nothing of it is an executor's.
    """
    listed = listed_mib(device)
    if listed is None or device.used_mib is None:
        return None
    return 0 if device.unified_memory else max(0, device.used_mib - listed)


def _family(pid: int | None, readings: Iterable[DeviceReading]) -> frozenset[int]:
    """The pid and those that it started, as these readings show them."""
    if pid is None:
        return frozenset()
    found = {process.pid for item in readings for process in item.processes or () if belongs(process, pid)}
    return frozenset(found | {pid})


def _used_by(device: DeviceReading, pids: frozenset[int]) -> int:
    return sum(process.used_mib or 0 for process in device.processes or () if process.pid in pids)
