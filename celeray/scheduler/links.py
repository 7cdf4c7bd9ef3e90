"""How close two devices of one node are: one integer, higher is closer. 0: not known.

| on the way between them | closeness | name, as `nvidia-smi topo -m` has it |
|---|---|---|
| the link between CPU sockets | 10 | `SYS` |
| several PCIe host bridges of one NUMA node | 20 | `NODE` |
| one PCIe host bridge | 30 | `PHB` |
| several PCIe switches | 40 | `PXB` |
| one PCIe switch | 50 | `PIX` |
| nothing but their own board: cards with two chips, slices of one card | 60 | `PSB` |
| n NVLinks, to each other or to NVSwitches | 100 n | `NV` and n |

Source of the weights: NVIDIA's go-gpuallocator (`besteffort_policy.go`), which weighs pairs so; of a pair only the best
connection counts here, and not the sum of NVLink and PCIe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Pairs = tuple[tuple[str, str, int], ...]
"""UUIDs of two devices and their closeness, each pair once. Pairs that are not known are left out."""
Matrix = tuple[tuple[int, ...], ...]
"""Closeness by device and device, 0 where it is not known and of a device to itself. Empty: none is known."""

SYSTEM = 10
NODE = 20
HOST_BRIDGE = 30
SWITCHES = 40
SWITCH = 50
BOARD = 60
NVLINK = 100
"""For each link."""

UNKNOWN_NAME = "-"
SELF_NAME = "X"
_NAMES = {
    0: UNKNOWN_NAME,
    SYSTEM: "SYS",
    NODE: "NODE",
    HOST_BRIDGE: "PHB",
    SWITCHES: "PXB",
    SWITCH: "PIX",
    BOARD: "PSB",
}


def matrix_of(uuids: Sequence[str], pairs: Iterable[tuple[str, str, int]]) -> Matrix:
    """The closeness of some devices, row and column in their order. Empty where no pair of them is known."""
    known = {}
    for one, other, closeness in pairs:
        known[one, other] = known[other, one] = closeness
    found = tuple(tuple(known.get((one, other), 0) for other in uuids) for one in uuids)
    return found if any(map(any, found)) else ()


def names_of(matrix: Matrix) -> tuple[tuple[str, ...], ...]:
    """The matrix by names: `X` of a device to itself, `-` where nothing is known."""
    return tuple(
        tuple(SELF_NAME if row == column else _name(value) for column, value in enumerate(values))
        for row, values in enumerate(matrix)
    )


def _name(closeness: int) -> str:
    return f"NV{closeness // NVLINK}" if closeness >= NVLINK else _NAMES[closeness]
