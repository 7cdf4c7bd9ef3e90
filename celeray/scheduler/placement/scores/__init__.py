"""How good is it there? One small file a policy, and `SCORES` names them.

A score is an integer, lower is better. It has two levels: `devices` chooses on a node, `nodes` among nodes. Equal
scores go to the first in the snapshot's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from celeray.scheduler.placement.policy import Policy
from celeray.scheduler.placement.rooms import Rooms
from celeray.scheduler.placement.scores.best_fit import BestFit
from celeray.scheduler.placement.scores.fgd import FragmentationGradient
from celeray.scheduler.placement.scores.first_fit import FirstFit
from celeray.scheduler.placement.scores.residue import ResiduePrice
from celeray.scheduler.placement.scores.score import Score, View
from celeray.scheduler.placement.scores.spread import Spread

SCORES: Mapping[str, Callable[[Rooms, Policy], Score]] = MappingProxyType(
    {
        "default": ResiduePrice,
        "fgd": FragmentationGradient,
        "best_fit": BestFit,
        "first_fit": FirstFit,
        "spread": Spread,
    }
)
"""Policies by name."""
PRICED = frozenset({"default", "fgd"})
"""Those that go by what usually comes."""

__all__ = ["PRICED", "SCORES", "Score", "View"]
