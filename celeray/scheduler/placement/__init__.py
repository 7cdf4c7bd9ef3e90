"""Placement: a pure decision over an immutable snapshot. Which node, which devices, which executor, or why not."""

from celeray.scheduler.placement.cycle import place
from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.recording import CycleInput, dump_cycle, load_cycle

__all__ = ["CycleInput", "Policy", "dump_cycle", "load_cycle", "place"]
