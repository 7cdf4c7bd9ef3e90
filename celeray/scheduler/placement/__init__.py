"""Placement: a pure decision over an immutable snapshot. Which node, which devices, which executor, or why not.

What needs NumPy is imported when it is first asked for: producers and plain workers check requests by `filters`, and
need none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeray.scheduler.placement.policy import Order, Policy

if TYPE_CHECKING:
    from celeray.scheduler.placement.cycle import place
    from celeray.scheduler.placement.explaining import Explanation, explain
    from celeray.scheduler.placement.recording import CycleInput, dump_cycle, load_cycle

_MODULES = {
    "CycleInput": "recording",
    "Explanation": "explaining",
    "dump_cycle": "recording",
    "explain": "explaining",
    "load_cycle": "recording",
    "place": "cycle",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["CycleInput", "Explanation", "Order", "Policy", "dump_cycle", "explain", "load_cycle", "place"]
