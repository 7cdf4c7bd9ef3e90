"""What an operator may choose about placement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Parameters of a placement cycle. Memory in MiB."""

    headroom_mib: int = 0
    """Kept free on each device; counts against what could ever fit."""
    exclusive_foreign_mib: int = 1024
    """A device with more foreign memory than this is not whole."""
