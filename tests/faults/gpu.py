"""Rigs whose worker is a bridge, on raylets with simulated devices."""

from __future__ import annotations

from typing import Any

from tests.faults.rig import Rig
from tests.faults.submitting import Load
from tests.faults.workers import Bridge

NODE: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "env": {"CELERAY_SIMULATE_GPUS": "1x24GiB"}}
"""One device of 24 GiB: six tasks at a time."""


GPU_LEASE_S = 6.0
"""A node agent ends the runs of a bridge that does not renew; on a busy machine it hears of a renewal seconds late."""


class GpuRig:
    """A rig and the Ray cluster on which its bridges run."""

    def __init__(self, rig: Rig, address: str) -> None:
        self.rig = rig
        self._address = address
        self._bridges = 0

    def bridge(self) -> Bridge:
        """One more, ready."""
        self._bridges += 1
        made = Bridge(self.rig.config(), self.rig.folder, f"bridge{self._bridges}", self._address)
        return self.rig.watch(made).await_ready()

    def load(self, rate: float = 8, seconds: float = 0.3) -> Load:
        return Load(self.rig.submitter(task="faults.gpu_work"), rate=rate, seconds=seconds)

    def running(self, count: int, deadline_s: float = 90.0) -> None:
        """Wait until so many runs have ended."""
        self.rig.await_event("end", count, deadline_s)
