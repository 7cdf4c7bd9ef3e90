"""Takes executors off devices that are out of service, and says once what became of a device.

Idle executors and those that start end where a device is drained or unhealthy; what runs there finishes. On a lost
device nothing can finish: its executors are killed, and their runs are lost, as with an executor that died.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from celeray.scheduler.accounting import Leak
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.executors import Executor
from celeray.scheduler.cluster import Cluster
from celeray.scheduler.standing import Drained, Service, Standing
from celeray.scheduler.states import ExecutorState

logger = logging.getLogger(__name__)

LEAVES = frozenset({Service.OUT, Service.LOST})


@dataclass(frozen=True, slots=True)
class Evacuation:
    """The executors that are to end."""

    leave: tuple[Executor, ...] = ()
    """Idle or starting: they have nothing to finish."""
    end: tuple[tuple[Executor, str], ...] = ()
    """On a lost device, each with why; at once, whatever runs in them."""


def evacuation(
    executors: Iterable[Executor], standings: Mapping[str, Standing], drained_nodes: Collection[str]
) -> Evacuation:
    """Which executors are to end.

    Args:
        executors: those that are alive.
        standings: of the devices, by UUID.
        drained_nodes: ids of the nodes that are drained.
    """
    leave: list[Executor] = []
    end: list[tuple[Executor, str]] = []
    for executor in executors:
        found = [(uuid, standings[uuid]) for uuid in executor.device_uuids if uuid in standings]
        lost = next((f"device {uuid} is {it.why}" for uuid, it in found if it.service is Service.LOST), None)
        if lost is not None:
            end.append((executor, lost))
        elif executor.run_ids or executor.state is ExecutorState.BUSY:
            continue
        elif executor.node_id in drained_nodes or any(it.service is Service.OUT for _, it in found):
            leave.append(executor)
    return Evacuation(tuple(leave), tuple(end))


class DeviceWatch:
    """Of one bridge. Belongs to the consumer thread."""

    def __init__(
        self, dispatcher: Dispatcher, cluster: Cluster, newest_drained: Callable[[], Drained | None]
    ) -> None:
        """
        Args:
            newest_drained: what operators drained, as far as it is known. None: not yet, so nothing is placed.
        """
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._cluster = cluster
        self._newest_drained = newest_drained
        self._told: dict[str, Standing] = {}
        self._leaks: dict[str, Leak] = {}

    def follow(self) -> None:
        """Take over what operators drained. Called before each cycle."""
        drained = self._newest_drained()
        self._dispatcher.may_place = drained is not None
        if drained is not None and drained is not self._fleet.ledger.drained:
            self._fleet.ledger.drained = drained
            self._dispatcher.dirty = True

    def run_once(self, now: float) -> None:
        """Do all of it. `now` is monotonic seconds."""
        self.follow()
        ledger = self._fleet.ledger
        nodes = ledger.readings()
        standings = {
            device.uuid: ledger.standing(device.uuid, now) for node in nodes for device in node.devices
        }
        drained = {node.node_id for node in nodes if ledger.drained.of_node(node.name, node.node_id)}
        self._evacuate(evacuation(self._fleet.executors.alive(), standings, drained))
        self._forgive()
        self._tell(standings)
        self._tell_leaks({uuid: leak for uuid in standings if (leak := ledger.leak(uuid, now))})

    def _evacuate(self, decided: Evacuation) -> None:
        for executor in decided.leave:
            self._fleet.stop(executor, force=executor.state is ExecutorState.STARTING)
        for executor, fate in decided.end:
            logger.error("executor %s is ended: %s", executor.executor_id, fate)
            executor.fate = fate
            self._fleet.stop(executor, force=True)

    def _forgive(self) -> None:
        """Tell the agents which XIDs operators have looked at, until readings show that they know."""
        forgiven = self._fleet.ledger.drained.forgiven
        for node in self._fleet.ledger.readings() if forgiven else ():
            for device in node.devices:
                up_to = forgiven.get(device.uuid)
                if up_to is not None and device.marked_at is not None and device.marked_at <= up_to:
                    self._cluster.forgive(node.node_id, device.uuid, up_to)

    def _tell(self, standings: Mapping[str, Standing]) -> None:
        for uuid, found in standings.items():
            before = self._told.get(uuid, Standing(Service.IN))
            if found == before:
                continue
            if found.service in LEAVES:
                level = logging.ERROR if found.service is Service.LOST else logging.WARNING
                logger.log(level, "device %s is out of service: %s", uuid, found.why)
            elif before.service in LEAVES:
                logger.warning("device %s is no longer out of service (was: %s)", uuid, before.why)
        self._told = dict(standings)

    def _tell_leaks(self, leaks: Mapping[str, Leak]) -> None:
        for uuid, leak in leaks.items():
            if uuid not in self._leaks:
                pids = f"pids {', '.join(map(str, leak.pids))}" if leak.pids else "no pid that NVML lists"
                logger.error(
                    "device %s is leaking: %d MiB of ended executors did not come back (%s)",
                    uuid,
                    leak.mib,
                    pids,
                )
        for uuid in self._leaks.keys() - leaks.keys():
            logger.warning("device %s leaks no more", uuid)
        self._leaks = dict(leaks)
