"""The one mutable book of reservations: VRAM by device UUID in integer MiB, CPUs and host memory by node.

One writer, the bridge's consumer thread. The rule that it holds, for each device:

    schedulable = total - foreign - sum over holders of max(reserved, measured) - headroom

Foreign is what NVML shows used and no holder accounts for. What NVML can't read is None and never counts as free.
The reservation of an ended holder stays until a reading was taken that began after its death; what such a reading
still shows is then foreign, so that memory is given out again only when NVML shows it back. What takes longer than
`leak_after_s` for that is called a leak (`celeray.scheduler.leaks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from celeray.scheduler.accounting import DeviceAccount, Leak, Reservation, account
from celeray.scheduler.cpu_book import CpuBook
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.leaks import LeakBook
from celeray.scheduler.model import DeviceReading, DeviceState, NodeReading, NodeState
from celeray.scheduler.node_book import NodeBook, unleased
from celeray.scheduler.standing import Drained, Service, Standing, standing_on


class Ledger:
    """Reservations, readings, and what they leave."""

    def __init__(
        self,
        *,
        headroom_mib: int = 0,
        reading_max_age_s: float = 15.0,
        start_concurrency: int = 4,
        leak_after_s: float = 30.0,
    ) -> None:
        self._headroom_mib = headroom_mib
        self._reading_max_age_s = reading_max_age_s
        self._start_concurrency = start_concurrency
        self.leaving: frozenset[str] = frozenset()
        """Ids of nodes that are being given back: nothing new is placed there."""
        self._nodes = NodeBook()
        self._leaks = LeakBook(leak_after_s)
        self._reservations: dict[str, Reservation] = {}
        self._on_device: dict[str, dict[str, Reservation]] = {}
        self._cpus = CpuBook()
        self.drained = Drained()
        """What operators took out of use; replaced as a whole."""

    # Readings

    def observe(self, reading: NodeReading) -> tuple[str, ...]:
        """Take a node's reading and return the ended holders that it released."""
        if not self._nodes.put(reading):
            return ()
        self._leaks.observe(reading)
        released = tuple(
            entry
            for entry in self._reservations.values()
            if entry.node_id == reading.node_id
            and entry.ended_at is not None
            and reading.requested_at > entry.ended_at
        )
        for entry in released:
            self._leaks.released(entry, reading)
            self._drop(entry.holder)
        return tuple(entry.holder for entry in released)

    def forget_node(self, node_id: str, now: float) -> tuple[str, ...]:
        """Drop a node that is gone with everything on it; return the holders that were there."""
        reading = self._nodes.get(node_id)
        if reading is not None:
            self._nodes.remove(self._node_state(reading, now, 0), now)
            self._leaks.forget(device.uuid for device in reading.devices)
        gone = tuple(entry.holder for entry in self._reservations.values() if entry.node_id == node_id)
        for holder in gone:
            self._drop(holder)
        return gone

    def clear(self, now: float) -> None:
        """Forget everything but what is drained, as after the loss of the cluster."""
        for reading in self._nodes:
            self.forget_node(reading.node_id, now)
        for holder in list(self._reservations):
            self._drop(holder)

    # Reservations

    def reserve(self, reservation: Reservation, now: float) -> None:
        """Enter a reservation.

        Raises:
            LedgerError: the holder has one already, a device is unknown or exclusively held, or the room is less
                than asked; the message names the holder, the device and both figures.
        """
        self._check(reservation, now)
        self._reservations[reservation.holder] = reservation
        for uuid in reservation.device_uuids:
            self._on_device.setdefault(uuid, {})[reservation.holder] = reservation

    def set_pid(self, holder: str, pid: int) -> None:
        """Name the process, so that NVML's list can be attributed to it."""
        self._update(holder, pid=pid)

    def set_ending(self, holder: str) -> None:
        """The holder was told to end; its room stays reserved until it has."""
        self._update(holder, ending=True)

    def end(self, holder: str, at: float) -> None:
        """The holder's process is gone since `at`; its room comes back with a later reading.

        A holder without devices has no reading to wait for and is released at once.
        """
        entry = self._reservations.get(holder)
        if entry is None:
            return
        self._cpus.unbook(holder)
        if entry.device_uuids:
            self._update(holder, ending=True, ended_at=at)
        else:
            self._drop(holder)

    def book_cpus(self, holder: str, node_id: str, milli: int) -> None:
        """Book CPUs of a node for as long as the holder starts or runs something.

        Raises:
            LedgerError: the node has fewer free, or the holder has booked already.
        """
        self._cpus.book(holder, node_id, milli, self._installed_cpus(node_id))

    def unbook_cpus(self, holder: str) -> None:
        """Give booked CPUs back. No booking: nothing happens."""
        self._cpus.unbook(holder)

    def reservation(self, holder: str) -> Reservation | None:
        """The holder's entry, ended ones included."""
        return self._reservations.get(holder)

    @property
    def holders(self) -> tuple[str, ...]:
        """All holders, ended ones included."""
        return tuple(self._reservations)

    # What is left

    def account(self, uuid: str, now: float) -> DeviceAccount:
        """The device's memory by owner.

        Raises:
            KeyError: no reading names the device.
        """
        node, reading = self._nodes.device(uuid)
        if self._is_old(node, now):
            # Its total is as unknown as its use.
            reading = replace(reading, used_mib=None)
        return account(
            reading,
            node.node_id,
            tuple(self._on_device.get(uuid, {}).values()),
            pids_visible=node.pids_visible,
            headroom_mib=self._headroom_mib,
            owed_mib=self._leaks.owed_mib(uuid),
        )

    def leak(self, uuid: str, now: float) -> Leak | None:
        """Memory of ended holders that did not come back in its time; None: none."""
        return self._leaks.leak(uuid, now)

    def standing(self, uuid: str, now: float) -> Standing:
        """Whether the device may be used, and why not.

        Raises:
            KeyError: no reading names the device.
        """
        return self._standing(*self._nodes.device(uuid), now)

    def accounts(self, now: float) -> tuple[DeviceAccount, ...]:
        """Every known device, by node and index."""
        return tuple(self.account(device.uuid, now) for reading in self._nodes for device in reading.devices)

    def nodes(self, now: float, starting: Iterable[str] = ()) -> tuple[NodeState, ...]:
        """Every known node as placement sees it; `starting` names the node of each executor that starts."""
        starts = list(starting)
        return tuple(self._node_state(reading, now, starts.count(reading.node_id)) for reading in self._nodes)

    def absent(self, now: float) -> tuple[NodeState, ...]:
        """Nodes that were lost less than five minutes ago and did not come back: a reboot, say."""
        return self._nodes.absent(now)

    def readings(self) -> tuple[NodeReading, ...]:
        """The newest reading of each node, in a fixed order."""
        return tuple(self._nodes)

    def node_name(self, node_id: str) -> str:
        """The node's name, or its id where no reading tells it."""
        reading = self._nodes.get(node_id)
        return reading.name if reading else node_id

    # Inside

    def _is_old(self, node: NodeReading, now: float) -> bool:
        return now - node.requested_at > self._reading_max_age_s

    def _standing(self, node: NodeReading, device: DeviceReading, now: float) -> Standing:
        return standing_on(node, device, self.drained, readable=not self._is_old(node, now))

    def _node_state(self, reading: NodeReading, now: float, starting: int) -> NodeState:
        return NodeState(
            node_id=reading.node_id,
            name=reading.name,
            cpus_milli=reading.cpus_milli,
            cpus_free_milli=self._cpus.free(reading.node_id, reading.cpus_milli),
            memory_mib=reading.memory_mib,
            memory_free_mib=self._host_memory_free(reading.node_id),
            reclaiming_memory_mib=sum(
                entry.host_memory_mib
                for entry in self._reservations.values()
                if entry.ending and entry.node_id == reading.node_id
            ),
            labels=dict(reading.labels),
            devices=(
                *(self._device_state(reading, device, now) for device in reading.devices),
                *(unleased(reading.node_id, number) for number in range(reading.unleased)),
            ),
            draining=reading.node_id in self.leaving
            or self.drained.of_node(reading.name, reading.node_id) is not None,
            starts_free=max(0, self._start_concurrency - starting),
            closeness=reading.closeness,
        )

    def _device_state(self, node: NodeReading, device: DeviceReading, now: float) -> DeviceState:
        found = self.account(device.uuid, now)
        entries = self._on_device.get(device.uuid, {}).values()
        return DeviceState(
            uuid=device.uuid,
            gpu_type=device.name,
            total_mib=device.total_mib or 0,
            schedulable_mib=found.schedulable_mib,
            holders=len(found.holders),
            exclusive=any(entry.exclusive for entry in entries),
            foreign_mib=found.foreign_mib or 0,
            usable=self._standing(node, device, now).service is Service.IN,
            exclusive_process=device.exclusive_process,
            reclaiming_mib=sum(entry.memory_mib for entry in entries if entry.ending),
            reclaiming_holders=sum(1 for entry in entries if entry.ending),
            overrun_mib=found.overrun_mib,
        )

    def _check(self, wanted: Reservation, now: float) -> None:
        if wanted.holder in self._reservations:
            raise LedgerError(f"{wanted.holder}: has a reservation already")
        if len(set(wanted.device_uuids)) != len(wanted.device_uuids):
            raise LedgerError(f"{wanted.holder}: names a device twice: {wanted.device_uuids}")
        if wanted.node_id not in self._nodes:
            raise LedgerError(f"{wanted.holder}: node {wanted.node_id} is unknown")
        if wanted.memory_mib < 0 or wanted.host_memory_mib < 0:
            raise LedgerError(f"{wanted.holder}: negative memory asked")
        free = self._host_memory_free(wanted.node_id)
        if wanted.host_memory_mib > free:
            raise LedgerError(
                f"{wanted.holder}: {wanted.host_memory_mib} MiB of host memory asked, {free} free"
            )
        for uuid in wanted.device_uuids:
            self._check_device(wanted, uuid, now)

    def _check_device(self, wanted: Reservation, uuid: str, now: float) -> None:
        if self._nodes.node_of(uuid) != wanted.node_id:
            raise LedgerError(f"{wanted.holder}: device {uuid} is not on node {wanted.node_id}")
        entries = self._on_device.get(uuid, {}).values()
        if any(entry.exclusive for entry in entries) or (wanted.exclusive and entries):
            raise LedgerError(
                f"{wanted.holder}: device {uuid} is held by {[entry.holder for entry in entries]}"
            )
        room = self.account(uuid, now).schedulable_mib
        if wanted.memory_mib > room:
            raise LedgerError(f"{wanted.holder}: {wanted.memory_mib} MiB asked on {uuid}, {room} schedulable")

    def _update(self, holder: str, **changes: Any) -> None:
        entry = self._reservations.get(holder)
        if entry is None:
            return
        changed = replace(entry, **changes)
        self._reservations[holder] = changed
        for uuid in entry.device_uuids:
            self._on_device[uuid][holder] = changed

    def _drop(self, holder: str) -> None:
        entry = self._reservations.pop(holder, None)
        self._cpus.unbook(holder)
        for uuid in entry.device_uuids if entry else ():
            entries = self._on_device[uuid]
            del entries[holder]
            if not entries:
                del self._on_device[uuid]

    def _installed_cpus(self, node_id: str) -> int:
        reading = self._nodes.get(node_id)
        return reading.cpus_milli if reading else 0

    def _host_memory_free(self, node_id: str) -> int:
        reading = self._nodes.get(node_id)
        reserved = sum(e.host_memory_mib for e in self._reservations.values() if e.node_id == node_id)
        return max(0, reading.memory_mib - reserved) if reading else 0
