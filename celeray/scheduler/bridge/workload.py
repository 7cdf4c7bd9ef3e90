"""What usually comes to this bridge, from which placement takes its prices.

Arrivals are counted on the consumer thread; the prices, up to a second of work, are made on a thread of their own, and
taken over by the next upkeep.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from threading import Thread

from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.placement.prices import worth_table
from celeray.scheduler.placement.prior import Prior, prior_of_counts

logger = logging.getLogger(__name__)

ARRIVALS_MIN = 100
"""Of fewer nothing is concluded. 100 tasks of the ATC '23 trace give half of what the whole trace gives."""
SHAPES_MAX = 2_000
"""Requests that are counted at once; beyond, all counts are halved, and what came once is forgotten."""
PRIOR_SHAPES_MAX = 60
"""The most frequent ones that make the prices."""
COUNTED_MAX = 1_000_000
"""Arrivals after which all counts are halved, so that what is new counts more."""


class Workload:
    """Of one bridge."""

    def __init__(self) -> None:
        self._counts: dict[ResourceRequest, int] = {}
        self._arrivals = 0
        self._priced_at = 0
        """Arrivals when the prices were last made."""
        self._thread: Thread | None = None
        self._made: Prior | None = None

    def note(self, request: ResourceRequest) -> None:
        """A task came that asks for this."""
        self._counts[request] = self._counts.get(request, 0) + 1
        self._arrivals += 1
        if len(self._counts) > SHAPES_MAX or self._arrivals > COUNTED_MAX:
            self._counts = {known: count // 2 for known, count in self._counts.items() if count > 1}
            self._arrivals = sum(self._counts.values())
            self._priced_at = min(self._priced_at, self._arrivals)

    def is_due(self) -> bool:
        """Whether half as many came again since the last prices, and none are being made."""
        enough = self._arrivals >= max(ARRIVALS_MIN, self._priced_at * 3 // 2)
        return enough and (self._thread is None or not self._thread.is_alive())

    def begin(self, devices_mib: Collection[int]) -> None:
        """Make the prices in the background.

        Args:
            devices_mib: what the cluster's devices give out when idle.
        """
        self._priced_at = self._arrivals
        prior = self._prior()
        self._thread = Thread(
            target=self._make, args=(prior, set(devices_mib)), name="celeray-prices", daemon=True
        )
        self._thread.start()

    def take(self) -> Prior | None:
        """A prior whose prices are made, once. None: there is no new one."""
        made, self._made = self._made, None
        return made

    def _prior(self) -> Prior:
        shapes = prior_of_counts(self._counts).shapes
        return Prior(shapes[:PRIOR_SHAPES_MAX])

    def _make(self, prior: Prior, devices_mib: Collection[int]) -> None:
        try:
            for mib in sorted(devices_mib):
                worth_table(prior, mib)
        except Exception:
            logger.exception("the prices of the workload could not be made, the ones before stay")
            return
        self._made = prior
