"""The board's room as arrays, so that a thousand devices are looked through at once.

An index and no second truth: each entry is what `filters.standing` says of one device, written again when that device
changes. Rows are nodes and columns their devices, in the snapshot's order; where a node has fewer, the rest is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from celeray.scheduler.model import Reason, ResourceRequest
from celeray.scheduler.placement.board import Board, BoardDevice, BoardNode
from celeray.scheduler.placement.filters import rank_of_type, standing
from celeray.scheduler.placement.policy import Policy

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CLOSED: dict[Reason, int] = {Reason.UNUSABLE: -1, Reason.RECLAIMING: -2, Reason.EXCLUSIVE: -3}
"""Room of a device that takes nobody now, whatever is asked, by the reason."""
PARTS = 1000
"""Shares of a device are counted in thousandths."""
UNWANTED = 1 << 10
"""Rank of a device type that the request does not accept."""


class Rooms:
    """Room by row and column: for shared and for whole devices, for runs of any length and for lasting ones."""

    def __init__(self, board: Board, policy: Policy) -> None:
        self._board = board
        self._policy = policy
        nodes = board.nodes
        self.width = max((len(node.devices) for node in nodes), default=0)
        self.touched: list[int] = []
        """Rows in the order in which they changed, one as often as it did."""
        shape = (len(nodes), self.width)
        self.total = np.ones(shape, dtype=np.int64)
        """MiB that each device gives out when idle, 1 where there is none."""
        self.counts = np.array([len(node.devices) for node in nodes], dtype=np.int64)
        self.kinds: list[tuple[str | None, int]] = []
        """Device type, and MiB that a device gives out when idle. Devices of one kind score alike."""
        self.kind = np.zeros(shape, dtype=np.int64)
        """Place in `kinds` of each device; 0 where there is none."""
        self.shares = np.zeros(shape, dtype=np.int64)
        """Idle part of each device in `PARTS`, rounded down; 0 where it can't be given out."""
        self.places = np.zeros(shape, dtype=np.int64)
        """Where a device's kind and idle share stand in a table that has all shares of one kind after another."""
        self.idle_shares = np.zeros(len(nodes), dtype=np.int64)
        """Their sum, by row."""
        self.wholes = np.zeros(len(nodes), dtype=np.int64)
        """How many devices are idle as a whole, by row."""
        self.draining = np.array([node.state.draining for node in nodes], dtype=np.bool_)
        self._room = {whole: np.full(shape, CLOSED[Reason.UNUSABLE], np.int64) for whole in (False, True)}
        self.free_cpus = np.zeros(len(nodes), dtype=np.int64)
        """Milli CPUs that nobody has, by row."""
        self._memory = np.zeros(len(nodes), dtype=np.int64)
        self._starts = np.zeros(len(nodes), dtype=np.bool_)
        # The same arrays until something is reserved.
        self._lasting_room = self._room
        self._lasting_cpus, self._lasting_memory = self.free_cpus, self._memory
        self._ranks: dict[tuple[str, ...], Ints] = {}
        self._labelled: dict[tuple[tuple[str, str], ...], Bools] = {}
        self._fill(nodes)

    def _fill(self, nodes: list[BoardNode]) -> None:
        places: dict[tuple[str | None, int], int] = {}
        for node in nodes:
            for device in node.devices:
                idle = self._idle_mib(device)
                at = (node.row, device.column)
                self.total[at] = idle
                kind = self.kind[at] = places.setdefault((device.state.gpu_type, idle), len(places))
                self.places[at] = kind * (PARTS + 1)
            self._write(node, node.devices)
        self.kinds.extend(places)

    def changed(self, node: BoardNode, devices: Iterable[BoardDevice]) -> None:
        """Take over what the board now says of a node and some of its devices."""
        self._write(node, devices)
        self.touched.append(node.row)

    def reserved(self, node: BoardNode, devices: Iterable[BoardDevice]) -> None:
        """From now on lasting runs get less than others there."""
        self._lasting_room = {whole: room.copy() for whole, room in self._room.items()}
        self._lasting_cpus, self._lasting_memory = self.free_cpus.copy(), self._memory.copy()
        self.changed(node, devices)

    def _write(self, node: BoardNode, devices: Iterable[BoardDevice]) -> None:
        row = node.row
        self.free_cpus[row], self._memory[row] = node.cpus_milli, node.memory_mib
        self._starts[row] = node.starts > 0 and not node.state.draining
        for device in devices:
            at = (row, device.column)
            idle = self._room[False][at] = self._open(device, whole=False)
            self._room[True][at] = self._open(device, whole=True) if idle >= 0 else idle
            before = int(self.shares[at])
            share = min(max(0, idle) * PARTS // self._idle_mib(device), PARTS)
            if share == before:
                continue
            self.shares[at] = share
            self.places[at] += share - before
            self.idle_shares[row] += share - before
            self.wholes[row] += int(share == PARTS) - int(before == PARTS)
        if self._lasting_room is not self._room:
            self._write_lasting(node, devices)

    def _write_lasting(self, node: BoardNode, devices: Iterable[BoardDevice]) -> None:
        row = node.row
        self._lasting_cpus[row] = node.cpus_for(lasting=True)
        self._lasting_memory[row] = node.memory_for(lasting=True)
        for device in devices:
            at = (row, device.column)
            for whole, room in self._lasting_room.items():
                room[at] = min(int(self._room[whole][at]), device.room_for(lasting=True))

    def _open(self, device: BoardDevice, *, whole: bool) -> int:
        reason = standing(device, self._policy, whole=whole)
        return device.room_mib if reason is None else CLOSED[reason]

    def _idle_mib(self, device: BoardDevice) -> int:
        return max(1, device.state.total_mib - self._policy.headroom_mib)

    def room(self, request: ResourceRequest, rows: Ints, *, lasting: bool) -> Ints:
        """MiB that a run may get, by row and column; below 0 where it gets none."""
        room = self._lasting_room if lasting else self._room
        found: Ints = room[request.exclusive].take(rows, axis=0)
        return found

    def places_of(self, rows: Ints, columns: Ints) -> Ints:
        """`places` of some columns of each row."""
        if columns.shape[1] == 1:
            found: Ints = self.places.ravel()[rows * self.width + columns[:, 0]][:, None]
            return found
        return self.places[rows[:, None], columns]

    def idle(self, rows: Ints) -> Ints:
        """MiB that nobody has, by row and column; 0 where it can't be given out."""
        return np.maximum(self._room[False][rows], 0)

    def nodes_fit(self, request: ResourceRequest, rows: Ints, *, lasting: bool) -> Bools:
        """Which rows have what the request asks of a node beside its devices."""
        cpus = self._lasting_cpus if lasting else self.free_cpus
        fit: Bools = self._starts[rows] & (cpus[rows] >= request.cpus_milli)
        if request.host_memory_mib:
            memory = self._lasting_memory if lasting else self._memory
            fit &= memory[rows] >= request.host_memory_mib
        if request.labels:
            fit &= self.labelled(request.labels)[rows]
        return fit

    def ranks(self, gpu_types: tuple[str, ...], rows: Ints) -> Ints:
        """Place of each device's type in a preference, `UNWANTED` where it has none."""
        table = self._ranks.get(gpu_types)
        if table is None:
            ranks = [rank_of_type(gpu_types, name) for name, _ in self.kinds]
            table = np.array([UNWANTED if rank is None else rank for rank in ranks] or [0], dtype=np.int64)
            self._ranks[gpu_types] = table
        return table[self.kind[rows]]

    def stands(self, request: ResourceRequest, rows: Ints, reason: Reason) -> Bools:
        """Which devices are closed for a reason, by row and column."""
        found: Bools = self._room[request.exclusive][rows] == CLOSED[reason]
        return found

    def node_refusals(self, request: ResourceRequest, *, lasting: bool) -> Iterator[tuple[Reason, Bools]]:
        """Which nodes lack what, beside devices; the last that holds of a node says most."""
        yield Reason.STARTING, ~self._starts
        if lasting:
            yield Reason.RESERVED, self._lasting_cpus < request.cpus_milli
            yield Reason.RESERVED, self._lasting_memory < request.host_memory_mib
        yield Reason.CPUS, self.free_cpus < request.cpus_milli
        yield Reason.HOST_MEMORY, self._memory < request.host_memory_mib

    def labelled(self, labels: tuple[tuple[str, str], ...]) -> Bools:
        """Which nodes have the labels."""
        found = self._labelled.get(labels)
        if found is None:
            found = np.array(
                [
                    all(node.state.labels.get(key) == value for key, value in labels)
                    for node in self._board.nodes
                ],
                dtype=np.bool_,
            )
            self._labelled[labels] = found
        return found
