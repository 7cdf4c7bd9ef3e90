"""CPUs of nodes that are booked, in thousandths. A part of the ledger."""

from __future__ import annotations

from celeray.scheduler.errors import LedgerError


class CpuBook:
    """One booking a holder."""

    def __init__(self) -> None:
        self._booked: dict[str, tuple[str, int]] = {}

    def book(self, holder: str, node_id: str, milli: int, installed: int) -> None:
        """Book CPUs of a node that has so many installed.

        Raises:
            LedgerError: the node has fewer free, or the holder has booked already.
        """
        if holder in self._booked:
            raise LedgerError(f"{holder}: has booked {self._booked[holder][1]} milli-CPUs already")
        free = self.free(node_id, installed)
        if milli > free:
            raise LedgerError(f"{holder}: {milli} milli-CPUs asked on {node_id}, {free} free")
        self._booked[holder] = (node_id, milli)

    def unbook(self, holder: str) -> None:
        """Give booked CPUs back. No booking: nothing happens."""
        self._booked.pop(holder, None)

    def free(self, node_id: str, installed: int) -> int:
        """What is not booked of them, at least 0."""
        return max(0, installed - sum(milli for node, milli in self._booked.values() if node == node_id))
