"""How often something may happen: token buckets by key, in bounded memory. Times are given, never read."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict

KEYS_MAX = 4096
"""Beyond, the key that was seen longest ago is forgotten."""


class Buckets:
    """One bucket a key: `burst` at once, then one every `interval_s`. Thread-safe."""

    def __init__(self, burst: int, interval_s: float) -> None:
        self._burst = burst
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When each bucket is full again; a key that is not there has a full one."""

    def take(self, key: str, now: float) -> float:
        """Count one. 0: it may happen; else seconds until the next one may, and this one was not counted."""
        with self._lock:
            full_at = max(now, self._full_at.pop(key, now))
            wait_s = full_at + self._interval_s - now - self._burst * self._interval_s
            # A thousandth, since sums of floats differ in the last digits.
            if wait_s <= self._interval_s / 1000:
                full_at, wait_s = full_at + self._interval_s, 0.0
            self._full_at[key] = full_at
            if len(self._full_at) > KEYS_MAX:
                self._full_at.popitem(last=False)
            return wait_s


def address_key(host: str) -> str:
    """An address as a key. An IPv6 client has a whole /64 to itself, so that counts as one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
