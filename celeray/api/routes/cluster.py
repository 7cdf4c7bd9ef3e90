"""`/v1/status`, `/v1/queues`, `/v1/devices`, `/v1/nodes`, `/v1/tenants`: what there is and how it stands."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from celeray.api.problems import Problem
from celeray.api.snapshots import Snapshots
from celeray.scheduler.overview import (
    DeviceList,
    NodeList,
    QueueList,
    cluster_status,
    devices,
    nodes,
    queue_statuses,
)
from celeray.scheduler.status import ClusterStatus, QueueStatus
from celeray.scheduler.tenant_overview import TenantList, tenants


def router(snapshots: Snapshots) -> APIRouter:
    """The routes over one source of snapshots."""
    routes = APIRouter(prefix="/v1", tags=["cluster"])
    settings = snapshots.settings

    @routes.get("/status")
    def get_status() -> ClusterStatus:
        """The whole on one screen, and what is wrong with it."""
        return cluster_status(snapshots.newest(), settings, version("celeray"))

    @routes.get("/queues")
    def get_queues() -> QueueList:
        """Every queue: messages on the broker, tasks held by bridges, and why they wait."""
        return QueueList(queues=queue_statuses(snapshots.newest(), settings))

    @routes.get("/queues/{name}")
    def get_queue(name: str) -> QueueStatus:
        """One queue."""
        queues = {queue.name: queue for queue in queue_statuses(snapshots.newest(), settings)}
        if name not in queues:
            raise Problem(404, f"no queue {name!r}; there are {', '.join(queues)}")
        return queues[name]

    @routes.get("/devices")
    def get_devices() -> DeviceList:
        """Every GPU: VRAM reserved, used, foreign and schedulable, health, and who is on it."""
        return DeviceList(devices=devices(snapshots.newest()))

    @routes.get("/nodes")
    def get_nodes() -> NodeList:
        """Every machine of the cluster."""
        return NodeList(nodes=nodes(snapshots.newest()))

    @routes.get("/tenants")
    def get_tenants() -> TenantList:
        """Tenants: their weights, what they have used, and what of theirs waits and runs in bridges."""
        return TenantList(tenants=tenants(snapshots.newest(), settings))

    return routes
