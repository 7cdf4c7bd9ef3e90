"""Tenants take turns: who has had the least VRAM for their weight comes next.

The order of `order.order_key` makes the slots of a cycle, and each slot keeps its base priority. Which task of that
priority gets the slot goes by tenants: the first one, in that same order, of the tenant with the least share of what
was used, `usage / weight`. So tasks change places within one base priority only. The sequence of base priorities is
as it was: nothing of a lower priority comes earlier or later than without tenants, so aging, and the bound on
overtaking, which counts lower priorities only, are what they were. Where less than two tenants wait (who name none
count as one together, `NOBODY`), nothing changes places for that.

Once room is kept for the first task without a place (`reservation`), the shortest expected run comes first, again
within one base priority and one tenant: what fills the gaps before the reserved room is needed. Who has waited longest
is then the next to have room kept, so a long run is not put off for ever. Source: Tsafrir, Etsion and Feitelson,
"Backfilling using system-generated predictions rather than user runtime estimates", IEEE TPDS 18(6), 2007
(EASY-SJBF). On the trace of docs/benchmarks.md it halves the mean wait.

Usage is VRAM in MiB times milliseconds, reserved and not measured, and it halves with each half-life (`bridge/
tenants.py`). What is placed counts at once with what it is expected to take, so that a cycle does not give all of its
slots to whoever was first; a task that is refused counts nothing. Who comes new or was idle has the least usage and
is served first, but has saved up no more than that: usage of a cluster that is always full is bounded by
`capacity * half_life / ln 2`, and a tenant of weight w that waits while all others come back from idleness waits for
at most `half_life * log2(W / w)`, where W is the sum of all weights, and about a run more. Then its halved usage is
the least.

By Slurm's fair-share factor (usage that decays with `PriorityDecayHalfLife`, over normalized shares), applied in turns
as in Demers, Keshav and Shenker, "Analysis and Simulation of a Fair Queueing Algorithm" (SIGCOMM 1989): next is whose
charge, with what is under way, is the least. Integers only, and deterministic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from itertools import islice

from celeray.scheduler.model import Snapshot, WaitingTask
from celeray.scheduler.placement.order import order_key
from celeray.scheduler.placement.policy import WEIGHT_ONE, Order
from celeray.scheduler.tenants import NOBODY


def charged_mib(memory_mib: int, devices: int) -> int:
    """VRAM that a run holds, as it is charged. One without a device counts as 1 MiB, so that it has turns as well."""
    return max(1, memory_mib * devices)


def expected_charge(task: WaitingTask, mib: int, order: Order) -> int:
    """What a run is expected to use, in MiB times milliseconds. `mib` is of all its devices together."""
    run_ms = order.unknown_run_ms if task.expected_ms is None else task.expected_ms
    return max(1, mib) * max(1, run_ms)


def first_in_turn(
    waiting: Sequence[WaitingTask], snapshot: Snapshot, order: Order, most: int
) -> tuple[WaitingTask, ...]:
    """The first `most` tasks in their order, if all of them got what they ask for, a whole device its largest."""
    shares = FairShare(waiting, snapshot, order)
    largest = max((device.total_mib for node in snapshot.nodes for device in node.devices), default=0)
    found = []
    for task in islice(shares, most):
        found.append(task)
        shares.charge(task, (task.request.memory_mib or largest) * task.request.gpus)
    return tuple(found)


class FairShare:
    """The tasks of one cycle, in the order in which they get their turn. Iterate once; `charge` in between."""

    def __init__(self, waiting: Sequence[WaitingTask], snapshot: Snapshot, order: Order) -> None:
        self._order = order
        self._slots = sorted(waiting, key=lambda task: order_key(task, order))
        self._used: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self.shared = len({task.tenant for task in waiting}) > 1
        """Whether there are turns at all."""
        self._kept = _kept_for(snapshot) if self.shared else None
        self._shortest_first = False
        if self.shared:
            self._used = dict(snapshot.tenants)
            self._weights = dict(order.tenant_weights_milli)

    def __iter__(self) -> Iterator[WaitingTask]:
        for place, task in enumerate(self._slots):
            if self.shared or self._shortest_first:
                yield from self._in_turn(self._slots[place:])
                return
            yield task

    def shortest_first(self) -> None:
        """From now on, of the tasks of a tenant and priority the one that is expected to end first."""
        self._shortest_first = self._order.shortest_first

    def charge(self, task: WaitingTask, mib: int) -> None:
        """The task has got a place, with so much VRAM on all its devices together."""
        if self.shared:
            tenant = task.tenant or NOBODY
            self._used[tenant] = self._used.get(tenant, 0) + expected_charge(task, mib, self._order)

    def _in_turn(self, slots: Sequence[WaitingTask]) -> Iterator[WaitingTask]:
        lines: dict[int, _Line] = {}
        for place, task in enumerate(slots):
            line = lines.get(task.priority)
            if line is None:
                line = lines[task.priority] = _Line(self)
            if task.first or task.sequence == self._kept:
                line.kept.append(task)
            else:
                line.add(place, task)
        sorted_already = False
        for slot in slots:
            if self._shortest_first and not sorted_already:
                sorted_already = True
                for line in lines.values():
                    line.sort(self.run_ms)
            yield lines[slot.priority].take()

    def run_ms(self, task: WaitingTask) -> int:
        """How long it is expected to run."""
        return self._order.unknown_run_ms if task.expected_ms is None else task.expected_ms

    def share(self, tenant: str) -> int:
        """What the tenant has used for its weight."""
        return self._used.get(tenant, 0) * WEIGHT_ONE // self._weights.get(tenant, WEIGHT_ONE)


def _kept_for(snapshot: Snapshot) -> int | None:
    """The task whose turn has come already, and lasts until all of the devices are free that are kept for it.

    Else two tenants' large tasks could take the reservation from each other whenever who has used less changes, and
    small ones fill what had come together. Who waits for the end of the one run that has all of a device has its turn
    anew each cycle: there nothing comes together, and what was decided before went by guessed run times.
    """
    reserved = snapshot.reserved
    if reserved is None:
        return None
    kept = set(reserved.device_uuids)
    devices = [device for node in snapshot.nodes for device in node.devices if device.uuid in kept]
    at_once = len(kept) == 1 and all(device.holders <= 1 and not device.schedulable_mib for device in devices)
    return None if at_once else reserved.sequence


class _Line:
    """The tasks of one base priority, by tenant."""

    def __init__(self, shares: FairShare) -> None:
        self._shares = shares
        self.kept: deque[WaitingTask] = deque()
        """They come before all others, in this order."""
        self._tasks: dict[str, deque[tuple[int, WaitingTask]]] = {}
        self._heap: list[tuple[int, int, str]] = []
        """Share, place of its first task, and tenant. A share here may be an older one, which is never above the
        tenant's own, since charges only add."""

    def add(self, place: int, task: WaitingTask) -> None:
        """Behind those that were added before."""
        tenant = task.tenant or NOBODY
        if tenant not in self._tasks:
            self._tasks[tenant] = deque()
            heappush(self._heap, (self._shares.share(tenant), place, tenant))
        self._tasks[tenant].append((place, task))

    def sort(self, run_ms: Callable[[WaitingTask], int]) -> None:
        """Shortest first, within each tenant."""
        for tenant, tasks in self._tasks.items():
            self._tasks[tenant] = deque(sorted(tasks, key=lambda entry: (run_ms(entry[1]), entry[0])))

    def take(self) -> WaitingTask:
        """The task whose turn it is."""
        if self.kept:
            return self.kept.popleft()
        while True:
            share, place, tenant = self._heap[0]
            now = self._shares.share(tenant)
            if now == share:
                break
            heapreplace(self._heap, (now, place, tenant))
        heappop(self._heap)
        tasks = self._tasks[tenant]
        _, task = tasks.popleft()
        if tasks:
            heappush(self._heap, (now, tasks[0][0], tenant))
        return task
