"""The node agent: one detached Ray actor a node that reads its devices, and watches and ends processes.

It outlives the bridge that made it and is found again by name. The name carries celeray's version, so that bridges of
two versions side by side never share one.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from threading import Lock
from typing import Any

import psutil

from celeray.actors.canaries import Canaries
from celeray.actors.journal import sweep_journals, take_journal
from celeray.actors.nvml import NvmlReader
from celeray.actors.processes import ProcessId, ancestors, find, is_alive, pids_visible
from celeray.actors.simulated import SPEC_VARIABLE, SimulatedDevices
from celeray.actors.supervision import Supervisor
from celeray.actors.xids import XidWatch
from celeray.scheduler.endings.host_memory import OutOfMemoryKills, RecentKills
from celeray.scheduler.links import Pairs
from celeray.scheduler.model import MIB, DeviceReading


@dataclass(frozen=True, slots=True)
class AgentReading:
    """What one node agent sees: all devices of the node, whoever leased them."""

    hostname: str
    cpus: int
    memory_mib: int
    devices: tuple[DeviceReading, ...]
    driver_version: str | None
    pids_visible: bool
    holds_folder: str | None
    """Folder of simulated holds; None: the devices are real."""
    closeness: Pairs = ()
    """Of the devices, as far as it is known."""


def agent_name(node_id: str) -> str:
    """Name of the agent's actor in the namespace `celeray`."""
    return f"celeray-node-agent-{version('celeray')}-{node_id}"


class NodeAgent:
    """Plain class; the actor is made of it. Ray calls it from several threads."""

    def __init__(self, node_id: str, simulate_gpus: str | None = None, *, watch: bool = False) -> None:
        """Open the node's devices.

        Args:
            node_id: Ray's id of the node.
            simulate_gpus: specification of simulated devices; None: CELERAY_SIMULATE_GPUS of the raylet's
                environment, else the node's real devices.
            watch: wait in a thread for what the driver tells of the devices, as the actor does.

        Raises:
            ConfigurationError: the specification can't be read.
        """
        spec = simulate_gpus or os.environ.get(SPEC_VARIABLE)
        self._simulated = SimulatedDevices(spec, node_id) if spec else None
        self._nvml = None if spec else NvmlReader()
        self._xids = XidWatch()
        self._canaries = Canaries(self._xids)
        if watch and self._nvml is not None:
            self._xids.start()
            self._canaries.start()
        self._lock = Lock()
        # Ray's processes of a node share a memory cgroup, so what is counted in the agent's own counts for executors.
        self._kills = RecentKills(OutOfMemoryKills())
        self._supervisor = Supervisor(lambda process: self.signal(process, signal.SIGKILL))

    def read(self, canary_interval_s: float = 0.0) -> AgentReading:
        """Read everything once. Devices are empty where NVML does not answer.

        Args:
            canary_interval_s: between two canaries on a device from now on; 0: none. What was asked last counts.
        """
        source = self._simulated or self._nvml
        assert source is not None
        self._canaries.set_interval(canary_interval_s)
        self._kills.look()
        # NVML's reader keeps state between reads, and reads ask the driver: one at a time.
        with self._lock:
            devices = self._canaries.remedies(self._xids.mark(source.read()))
            closeness = source.closeness
        visible = self._simulated is not None or pids_visible()
        if self._simulated is None and visible:
            devices = tuple(map(_with_parents, devices))
        return AgentReading(
            hostname=socket.gethostname(),
            cpus=os.cpu_count() or 1,
            memory_mib=int(psutil.virtual_memory().total // MIB),
            devices=devices,
            driver_version=source.driver_version,
            pids_visible=visible,
            holds_folder=None if self._simulated is None else str(self._simulated.folder),
            closeness=closeness,
        )

    def forgive(self, uuid: str, up_to: float) -> bool:
        """An operator has looked at a device: no XID that came up to a time keeps it out; whether any did."""
        card = self._xids.card_of(uuid)
        self._canaries.forgiven(card)
        return self._xids.forgive(card, up_to)

    def is_alive(self, process: ProcessId) -> bool:
        """Whether a process of this node still runs."""
        return is_alive(process)

    def take_journal(self, pid: int, executor_id: str) -> bytes | None:
        """The journal of a dead executor of this node, which is then removed. None: it has none."""
        sweep_journals()
        return take_journal(pid, executor_id)

    def signal(self, process: ProcessId, signum: int) -> bool:
        """Send a signal to an executor of this node; whether there was one to send it to.

        Only to a child of the raylet that started this agent: executors are such children, and nothing that a
        bridge could name by mistake is.
        """
        found = find(process)
        if found is None or found.ppid() != os.getppid():
            return False
        found.send_signal(signum)
        return True

    def keep_alive(self, bridge_id: str, processes: Sequence[ProcessId], deadline: float | None) -> float:
        """The bridge's executors on this node may go on until `deadline`; see `celeray.actors.supervision`.

        Args:
            processes: all of them, each time.
            deadline: on this agent's monotonic clock; None: as before.

        Returns:
            This agent's monotonic clock in seconds.
        """
        return self._supervisor.keep_alive(bridge_id, processes, deadline)

    def was_ended(self, process: ProcessId) -> bool:
        """Whether this agent killed a process since its bridge did not renew its leases."""
        return self._supervisor.was_ended(process)

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed an executor of this node, which has just died, for want of host memory.

        The kernel counts its kills and does not name them: one of them answers one question, within
        `celeray.scheduler.endings.host_memory.LATELY_S`.
        """
        return self._kills.take()


def _with_parents(device: DeviceReading) -> DeviceReading:
    """With who started each process, so that an executor's children are known for its own."""
    if not device.processes:
        return device
    known = tuple(replace(process, parents=ancestors(process.pid)) for process in device.processes)
    return replace(device, processes=known)


def agent_options(node_id: str) -> dict[str, Any]:
    """Options of the agent's actor: detached, restarted, pinned to its node, and free of charge."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "name": agent_name(node_id),
        "namespace": "celeray",
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_concurrency": 4,
        "num_cpus": 0,
        "num_gpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
    }
