"""Reading through NVML how close the devices of a node are; `celeray.scheduler.links` has the table.

Read when the devices are others than before, and every `AGAIN_S` seconds: connections stay, but a link may go down, and
those to NVSwitches come up with the fabric manager, which may start after us. A pair of which the driver says nothing
(a virtual machine, say) is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pynvml

from celeray.actors.nvml_query import DeviceLostError, query, query_or
from celeray.scheduler import links
from celeray.scheduler.clock import Clock
from celeray.scheduler.links import Pairs

AGAIN_S = 600.0
PCIE = {
    pynvml.NVML_TOPOLOGY_INTERNAL: links.BOARD,
    pynvml.NVML_TOPOLOGY_SINGLE: links.SWITCH,
    pynvml.NVML_TOPOLOGY_MULTIPLE: links.SWITCHES,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: links.HOST_BRIDGE,
    pynvml.NVML_TOPOLOGY_NODE: links.NODE,
    pynvml.NVML_TOPOLOGY_SYSTEM: links.SYSTEM,
}
NO_SUCH_LINK = frozenset({pynvml.NVML_ERROR_INVALID_ARGUMENT})
"""What a card says of links that its generation does not have."""

Address = tuple[int, int, int]
"""PCI domain, bus and device."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is."""

    uuid: str
    card: Any
    """NVML's handle of the card, also where the device is a slice of it."""
    card_uuid: str | None = None
    """Of a slice."""


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the active NVLinks of a card lead to."""

    address: Address | None
    peers: Counter[Address]
    to_switches: int


class LinkReader:
    """Keeps what it read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_of: frozenset[str] | None = None
        self._read_at = 0.0
        self._pairs: Pairs = ()

    def read(self, places: Sequence[Place]) -> Pairs:
        """Closeness of each pair of devices of which something is known, in their order.

        Raises:
            DriverLostError: NVML as a whole does not answer.
        """
        now, uuids = self._clock.monotonic(), frozenset(place.uuid for place in places)
        if uuids != self._read_of or now - self._read_at >= AGAIN_S:
            try:
                self._pairs = _pairs(places)
                self._read_of, self._read_at = uuids, now
            except DeviceLostError:
                # The next read finds out which device it was.
                self._pairs, self._read_of = (), None
        return self._pairs


def _pairs(places: Sequence[Place]) -> Pairs:
    if len(places) < 2:
        return ()
    # A slice has no links of its own, and may not use its card's.
    ends = {place.uuid: _ends_of(place.card) for place in places if place.card_uuid is None}
    found = ((a.uuid, b.uuid, _closeness(a, b, ends)) for a, b in combinations(places, 2))
    return tuple((a, b, closeness) for a, b, closeness in found if closeness)


def _closeness(a: Place, b: Place, ends: dict[str, _Ends]) -> int:
    """Of two devices; 0: not known."""
    if a.card_uuid is not None and a.card_uuid == b.card_uuid:
        return links.BOARD
    if a.uuid in ends and b.uuid in ends and (count := _links_between(ends[a.uuid], ends[b.uuid])):
        return count * links.NVLINK
    return PCIE.get(query(pynvml.nvmlDeviceGetTopologyCommonAncestor, a.card, b.card), 0)


def _links_between(a: _Ends, b: _Ends) -> int:
    # Each end lists a link, where it can tell. All switches of a node are one fabric: whoever is on it reaches all
    # others with as many links as the one with fewer has.
    to_b = a.peers[b.address] if b.address else 0
    to_a = b.peers[a.address] if a.address else 0
    return max(to_b, to_a) + min(a.to_switches, b.to_switches)


def _ends_of(card: Any) -> _Ends:
    peers: Counter[Address] = Counter()
    to_switches = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state, _ = query_or(pynvml.nvmlDeviceGetNvLinkState, card, link, unknown=NO_SUCH_LINK)
        if state != pynvml.NVML_FEATURE_ENABLED:
            continue
        # Where the driver can't tell the type, a switch's address is no device's, and the link counts for nobody.
        if (
            query(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, card, link)
            == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        ):
            to_switches += 1
        elif (remote := _address(query(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, card, link))) is not None:
            peers[remote] += 1
    return _Ends(_address(query(pynvml.nvmlDeviceGetPciInfo, card)), peers, to_switches)


def _address(info: Any) -> Address | None:
    return None if info is None else (int(info.domain), int(info.bus), int(info.device))
