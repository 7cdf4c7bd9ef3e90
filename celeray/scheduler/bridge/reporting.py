"""What the bridge tells the outside: its status for the API, and its capacity for producers that refuse at publish."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from celeray import __version__
from celeray.scheduler.bridge import picture
from celeray.scheduler.bridge.capacity_exchange import CapacityExchange
from celeray.scheduler.bridge.cycle_report import CycleReport
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.learned_exchange import LearnedExchange
from celeray.scheduler.bridge.publisher import StatusPublisher
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.bridge.tenant_books import SLICES_MOST
from celeray.scheduler.bridge.tenant_exchange import TenantExchange
from celeray.scheduler.broker import broker_keys, broker_redis
from celeray.scheduler.capacity import ClusterCapacity, NodeCapacity
from celeray.scheduler.elastic.node_types import empty_nodes
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.learned.store import LearnedStore
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import BridgeStatus
from celeray.scheduler.status_store import StatusStore
from celeray.scheduler.tenant_store import TenantStore


class Reporting:
    """Builds a status on the consumer thread and hands it to the publisher's thread."""

    def __init__(
        self,
        app: Any,
        settings: Settings,
        bridge_id: str,
        hostname: str,
        dispatcher: Dispatcher,
        recorder: Recorder,
        elastic: Callable[[float], tuple[ElasticStatus, ...]],
    ) -> None:
        """
        Args:
            elastic: how it stands with the nodes that Ray may add, at monotonic seconds.
        """
        self._app = app
        self._elastic = elastic
        self._may_come = tuple(
            NodeCapacity.of_state(node)
            for node in empty_nodes(settings.elastic, headroom_mib=settings.vram_headroom_mib)
        )
        self._settings = settings
        self._bridge_id = bridge_id
        self._hostname = hostname
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._started_at = time.time()
        self._publisher = StatusPublisher(self._open_store)
        self._cycles = CycleReport(bridge_id, dispatcher)
        self._capacity = CapacityExchange(bridge_id, lambda: broker_redis(app), broker_keys(app))
        self._learned = LearnedExchange(
            lambda: LearnedStore(broker_redis(app), broker_keys(app)),
            dispatcher.learner,
            interval_s=settings.status_interval_s,
        )

        self._tenants = TenantExchange(
            lambda: TenantStore(
                broker_redis(app), broker_keys(app), slice_ms=dispatcher.books.slice_ms, slices=SLICES_MOST
            ),
            dispatcher.books,
        )

    def start(self) -> None:
        """Begin to write.

        Raises:
            ConfigurationError: the app has no Redis to write to.
        """
        broker_redis(self._app).close()
        self._publisher.start()
        self._capacity.start()
        self._learned.start()
        self._tenants.start()

    def refusal(self, request: ResourceRequest) -> RequirementError | None:
        """The error for a request that no node of any bridge could ever hold; None where one could."""
        return self._capacity.refusal(request)

    def _open_store(self) -> StatusStore:
        return StatusStore(
            broker_redis(self._app),
            keys=broker_keys(self._app),
            interval_s=self._settings.status_interval_s,
            result_ttl_s=self._settings.result_ttl_s,
        )

    def offer(self, window: int) -> None:
        """Hand over what is true now. Called on the consumer thread."""
        now = time.monotonic()
        taken = self._recorder.take()
        dispatcher = self._dispatcher
        status = BridgeStatus(
            bridge_id=self._bridge_id,
            hostname=self._hostname,
            pid=os.getpid(),
            version=__version__,
            written_at=time.time(),
            started_at=self._started_at,
            cluster_up=dispatcher.cluster.up,
            cluster_address=dispatcher.cluster.address,
            cluster_detail=dispatcher.cluster.detail,
            window=window,
            waiting=len(dispatcher.waiting),
            running=len(dispatcher.running),
            queues=picture.queues(dispatcher),
            nodes=picture.nodes(dispatcher, now),
            devices=picture.devices(dispatcher, now),
            executors=picture.executors(dispatcher),
            elastic=self._elastic(now),
            running_tasks=taken.running_tasks,
            tenants=picture.tenants(dispatcher),
            counters=taken.counters.model_copy(update={"tenants": picture.tenant_totals(dispatcher)}),
            records_skipped=taken.skipped,
        )
        self._publisher.offer(status, taken.facts, self._cycles.take(now))
        self._capacity.offer(self._cluster_capacity(now))
        dispatcher.learner.see(dispatcher.fleet.ledger.readings())
        self._learned.offer(dispatcher.learner.take())

    def _cluster_capacity(self, now: float) -> ClusterCapacity:
        ledger = self._dispatcher.fleet.ledger
        readings = ledger.readings()
        unknown = any(r.unleased or any(d.total_mib is None for d in r.devices) for r in readings)
        none_yet = not readings or not (self._may_come or any(reading.devices for reading in readings))
        there = (NodeCapacity.of(r, headroom_mib=self._settings.vram_headroom_mib) for r in readings)
        return ClusterCapacity(
            (*there, *self._may_come),
            may_grow=self._settings.cluster_may_grow or unknown or none_yet or bool(ledger.absent(now)),
        )

    def stop(self) -> None:
        """Write the last status and take the bridge off the lists."""
        self._publisher.stop()
        self._capacity.stop()
        self._learned.stop()
        self._tenants.stop()
