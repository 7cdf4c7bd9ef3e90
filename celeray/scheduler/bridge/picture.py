"""The bridge's state as the value that REST and CLI show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from celeray.scheduler.accounting import DeviceAccount
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.run import Run
from celeray.scheduler.counters import TenantUse
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.links import names_of
from celeray.scheduler.model import Attribution, NodeState
from celeray.scheduler.states import RunState
from celeray.scheduler.status import BridgeQueue, BridgeTenant, DeviceStatus, ExecutorStatus, NodeStatus
from celeray.scheduler.tenants import NOBODY

TENANTS_SHOWN = 500


def nodes(dispatcher: Dispatcher, now: float) -> tuple[NodeStatus, ...]:
    """Every node with what is left on it; `now` is monotonic seconds."""
    states = {state.node_id: state for state in dispatcher.fleet.ledger.nodes(now)}
    found = []
    for reading in dispatcher.fleet.ledger.readings():
        state: NodeState = states[reading.node_id]
        found.append(
            NodeStatus(
                node_id=reading.node_id,
                name=reading.name,
                address=reading.address,
                cpus_milli=reading.cpus_milli,
                cpus_free_milli=state.cpus_free_milli,
                memory_mib=reading.memory_mib,
                memory_free_mib=state.memory_free_mib,
                labels=dict(reading.labels),
                draining=state.draining,
                drained=dispatcher.fleet.ledger.drained.of_node(reading.name, reading.node_id),
                reading_age_s=max(0.0, now - reading.requested_at),
                simulated=reading.simulated,
                attribution=Attribution.PID if reading.pids_visible else Attribution.RESERVATION,
                driver_version=reading.driver_version,
                devices=tuple(device.uuid for device in reading.devices),
                links=names_of(reading.closeness),
            )
        )
    return tuple(found)


def devices(dispatcher: Dispatcher, now: float) -> tuple[DeviceStatus, ...]:
    """Every leased device by owner of its memory."""
    ledger = dispatcher.fleet.ledger
    return tuple(_device(account, ledger, now) for account in ledger.accounts(now))


def _device(account: DeviceAccount, ledger: Ledger, now: float) -> DeviceStatus:
    reading, leak = account.reading, ledger.leak(account.reading.uuid, now)
    return DeviceStatus(
        uuid=reading.uuid,
        index=reading.index,
        node_id=account.node_id,
        node_name=ledger.node_name(account.node_id),
        name=reading.name,
        total_mib=reading.total_mib,
        used_mib=reading.used_mib,
        reserved_mib=account.reserved_mib,
        foreign_mib=account.foreign_mib,
        schedulable_mib=account.schedulable_mib,
        health=reading.health,
        health_reason=reading.health_reason,
        lost=reading.lost,
        remedy=reading.remedy,
        unusable=ledger.standing(reading.uuid, now).why,
        drained=ledger.drained.devices.get(reading.uuid),
        leaking_mib=leak.mib if leak else 0,
        leaking_pids=leak.pids if leak else (),
        xids=dict(reading.xids),
        marked_at=reading.marked_at,
        utilization_pct=reading.utilization_pct,
        temperature_c=reading.temperature_c,
        power_mw=reading.power_mw,
        executors=account.holders,
    )


def executors(dispatcher: Dispatcher) -> tuple[ExecutorStatus, ...]:
    """Every executor that holds room."""
    found = []
    for executor in dispatcher.fleet.executors:
        runs = map(dispatcher.running.get, executor.run_ids)
        found.append(
            ExecutorStatus(
                executor_id=executor.executor_id,
                executor_class=executor.executor_class,
                state=executor.state,
                node_id=executor.node_id,
                device_uuids=executor.device_uuids,
                memory_mib=executor.memory_mib,
                pid=executor.pid,
                tasks=tuple(run.task_id for run in runs if run),
                runs=executor.runs,
            )
        )
    return tuple(found)


def queues(dispatcher: Dispatcher) -> tuple[BridgeQueue, ...]:
    """What the bridge holds, by the queue that it came from."""
    waiting: dict[str, list[Run]] = {}
    for run in dispatcher.waiting:
        waiting.setdefault(run.queue, []).append(run)
    running: Counter[str] = Counter()
    for run in dispatcher.running:
        if run.state is RunState.RUNNING:
            running[run.queue] += 1
        else:
            waiting.setdefault(run.queue, []).append(run)
    return tuple(
        BridgeQueue(
            name=name,
            waiting=len(waiting.get(name, ())),
            running=running[name],
            oldest_received_at=min((run.facts.received_at for run in waiting.get(name, ())), default=None),
            reasons=dict(Counter(run.reason for run in waiting.get(name, ()) if run.reason is not None)),
        )
        for name in sorted(set(waiting) | set(running))
    )


def tenants(dispatcher: Dispatcher) -> tuple[BridgeTenant, ...]:
    """Who has something waiting or running, and who has used most. None before a message has named a tenant."""
    books = dispatcher.books
    if not books.named:
        return ()
    waiting: Counter[str] = Counter()
    for (_, _, tenant), count in dispatcher.waiting.counts().items():
        waiting[tenant or NOBODY] += count
    running, used = books.running(), books.known()
    found = [
        BridgeTenant(
            tenant=tenant,
            waiting=waiting[tenant],
            running=running.get(tenant, 0),
            used_mib_s=used.get(tenant, 0) / 1000,
        )
        for tenant in {*waiting, *running, *used}
    ]
    found.sort(key=lambda one: (not (one.waiting or one.running), -one.used_mib_s, one.tenant))
    return tuple(found[:TENANTS_SHOWN])


def tenant_totals(dispatcher: Dispatcher) -> tuple[TenantUse, ...]:
    """What each tenant has used in this bridge since it started."""
    return tuple(
        TenantUse(tenant=tenant, mib_s=mib_ms / 1000) for tenant, mib_ms in dispatcher.books.totals.items()
    )


def pool_info(dispatcher: Dispatcher) -> dict[str, Any]:
    """For Celery's `inspect stats`."""
    executors = dispatcher.fleet.executors
    return {
        "processes": [executor.pid for executor in executors.alive() if executor.pid is not None],
        "cluster": dispatcher.cluster.address or dispatcher.cluster.detail,
        "waiting": len(dispatcher.waiting),
        "running": len(dispatcher.running),
        "executors": {e.executor_id: f"{e.executor_class} {e.state}" for e in executors},
    }
