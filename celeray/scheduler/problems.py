"""What an operator should look at, from the whole cluster's state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from celeray.scheduler.model import Health, Reason
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import DeviceStatus, NodeStatus, QueueStatus

if TYPE_CHECKING:
    from celeray.scheduler.overview import Overview


def problems(
    overview: Overview,
    queues: Iterable[QueueStatus],
    all_devices: Iterable[DeviceStatus],
    all_nodes: Iterable[NodeStatus],
    settings: Settings,
) -> Iterable[str]:
    """What an operator should look at, a sentence each."""
    yield from _bridge_problems(overview)
    yield from _keeper_problems(overview)
    for device in all_devices:
        yield from _device_problems(device)
    for node in all_nodes:
        if node.reading_age_s is not None and node.reading_age_s > settings.reading_max_age_s:
            yield f"node {node.name}: its last reading is {node.reading_age_s:.0f} s old"
    for queue in queues:
        if stuck := queue.reasons.get(Reason.NEVER_FITS):
            yield f"queue {queue.name}: {stuck} task(s) ask for more than any device has"


def _bridge_problems(overview: Overview) -> Iterable[str]:
    if not overview.bridges:
        yield "no bridge is up: nothing takes from the gpu.* queues"
    for item in overview.summaries:
        if not item.up:
            yield f"bridge {item.hostname} has not written for {item.age_s or 0:.0f} s"
        elif not item.cluster_up:
            yield f"bridge {item.hostname} does not reach Ray: {item.cluster_detail or 'still connecting'}"


def _keeper_problems(overview: Overview) -> Iterable[str]:
    """A team that never had a keeper does without one."""
    if overview.keepers and not any(keeper.up for keeper in overview.keepers):
        last = min(overview.keepers, key=lambda keeper: keeper.age_s)
        yield f"no keeper is up: {last.name} did its last round {last.age_s:.0f} s ago"


def _device_problems(device: DeviceStatus) -> Iterable[str]:
    """What is drained is so on purpose, and no problem by itself."""
    where = f"device {device.index} of {device.node_name} ({device.uuid})"
    if device.health is Health.UNHEALTHY:
        remedy = f"; back by: {device.remedy}" if device.remedy else ""
        yield f"{where}: {device.health_reason or 'unhealthy'}{remedy}"
    if device.leaking_mib:
        pids = f"pids {', '.join(map(str, device.leaking_pids))}" if device.leaking_pids else "no pid"
        yield f"{where}: {device.leaking_mib} MiB of ended executors did not come back ({pids})"
