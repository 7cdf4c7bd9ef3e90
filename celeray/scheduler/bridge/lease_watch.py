"""Tells the cluster how long the bridge's runs may go on: until the oldest renewal of its leases is a lease old."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from celeray.scheduler.transport.leases import LeaseBook


class LeaseWatch:
    """Over the books of all channels: one that outlives a lost connection still has runs. Called from any thread."""

    def __init__(self, keep_alive: Callable[[float, float], None]) -> None:
        """
        Args:
            keep_alive: `Cluster.keep_alive`.
        """
        self._keep_alive = keep_alive
        self._lock = Lock()
        self._books: list[LeaseBook] = []

    def watch(self, book: LeaseBook) -> None:
        """Count this book too, from now on."""
        with self._lock:
            self._books.append(book)
        book.on_renewed.append(self._tell)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            # The last one is in use even while it holds nothing.
            self._books = [*(book for book in self._books[:-1] if not book.idle), self._books[-1]]
            renewed_at = min(book.renewed_at for book in self._books)
            lease_s = min(book.options.lease_s for book in self._books)
        self._keep_alive(renewed_at, lease_s)
