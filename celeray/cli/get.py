"""`celeray get queues|devices|nodes|tasks|dead-letters|audit`: lists."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from celeray.cli.dead_letters import list_letters
from celeray.cli.get_limits import get_limits
from celeray.cli.get_tenants import get_tenants
from celeray.cli.lazy import EXIT_USAGE, CliError
from celeray.cli.learned import get_learned
from celeray.cli.options import output_option
from celeray.cli.render import gib, known, moment, paused_text, print_json, print_table, seconds
from celeray.cli.status import open_source, source_options
from celeray.scheduler.status import DeviceStatus, NodeStatus, QueueStatus, TaskRecord, TaskState

DEVICE_COLUMNS = (
    *("node", "gpu", "name", "total", "used", "reserved", "foreign", "schedulable"),
    *("util", "temp", "power", "health", "executors", "uuid"),
)
TASK_COLUMNS = (
    *("task", "name", "queue", "prio", "state", "node", "VRAM GiB"),
    *("peak", "warm", "wait", "run", "ended", "why"),
)


@click.group()
def get() -> None:
    """List queues, devices, nodes, tasks, tenants, limits, what was learned, or dead letters."""


get.add_command(get_limits)
get.add_command(get_learned)
get.add_command(get_tenants)
get.add_command(list_letters, "dead-letters")


@get.command("queues")
@click.argument("name", required=False)
@source_options
@output_option
def get_queues(name: str | None, output: str, **options: Any) -> None:
    """Queues: messages on the broker, tasks that bridges hold, and why they wait."""
    found = open_source(**options).queues()
    chosen = found.model_copy(update={"queues": tuple(_named(found.queues, name, "queue"))})
    if output == "json":
        print_json(chosen)
        return
    columns = (
        "queue",
        "kind",
        "depth",
        "by priority",
        "waiting",
        "running",
        "oldest",
        "why waiting",
        "paused",
    )
    print_table(columns, map(_queue_row, chosen.queues), empty="no queues")


@get.command("devices")
@click.argument("name", required=False)
@source_options
@output_option
def get_devices(name: str | None, output: str, **options: Any) -> None:
    """GPUs, by uuid or all: VRAM in GiB, health, and how many executors are on each."""
    found = open_source(**options).devices()
    chosen = tuple(device for device in found.devices if name in (None, device.uuid))
    _must_exist(chosen, name, "device")
    if output == "json":
        print_json(found.model_copy(update={"devices": chosen}))
        return
    print_table(DEVICE_COLUMNS, map(_device_row, chosen), empty="no devices")


@get.command("nodes")
@click.argument("name", required=False)
@source_options
@output_option
def get_nodes(name: str | None, output: str, **options: Any) -> None:
    """Nodes: CPUs, memory and devices."""
    found = open_source(**options).nodes()
    chosen = found.model_copy(update={"nodes": tuple(_named(found.nodes, name, "node"))})
    if output == "json":
        print_json(chosen)
        return
    columns = ("node", "address", "cpus free", "memory free GiB", "devices", "reading", "labels", "id")
    print_table(columns, map(_node_row, chosen.nodes), empty="no nodes")


@get.command("tasks")
@click.option("-l", "--filter", "filters", help="For instance queue=gpu.generation,state=running.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@source_options
@output_option
def get_tasks(filters: str | None, limit: int, output: str, **options: Any) -> None:
    """Tasks that bridges had, those that changed last first."""
    chosen = parse_filters(filters)
    found = open_source(**options).tasks(state=chosen.get("state"), queue=chosen.get("queue"), limit=limit)
    if output == "json":
        print_json(found)
        return
    now = time.time()
    print_table(TASK_COLUMNS, (task_row(task, now) for task in found.tasks), empty="no tasks")


@get.command("audit")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@source_options
@output_option
def get_audit(limit: int, output: str, **options: Any) -> None:
    """Who changed what, when and why, the newest first. The API gives it to admins only."""
    found = open_source(**options).audit(limit)
    if output == "json":
        print_json(found)
        return
    rows = ((moment(item.at), item.by, item.action, item.target, item.why) for item in found.records)
    print_table(("when", "who", "what", "target", "why"), rows, empty="no records")


def parse_filters(text: str | None) -> dict[str, str]:
    """`queue=..,state=..` as a mapping.

    Raises:
        CliError: a key or a state that does not exist.
    """
    chosen: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if key not in ("queue", "state") or not equals:
            raise CliError(f"--filter {part!r}: expected queue=NAME or state=STATE", EXIT_USAGE)
        if key == "state" and value not in list(TaskState):
            raise CliError(f"--filter state={value!r}: one of {', '.join(TaskState)}", EXIT_USAGE)
        chosen[key] = value
    return chosen


def _named(items: Iterable[Any], name: str | None, what: str) -> list[Any]:
    chosen = [item for item in items if name in (None, item.name)]
    _must_exist(chosen, name, what)
    return chosen


def _must_exist(chosen: Any, name: str | None, what: str) -> None:
    if name is not None and not chosen:
        raise CliError(f"no {what} {name!r}", 1)


def _queue_row(queue: QueueStatus) -> tuple[str, ...]:
    by_priority = " ".join(
        f"{level}:{count}" for level, count in sorted(queue.depth_by_priority.items(), reverse=True)
    )
    reasons = " ".join(f"{reason}:{count}" for reason, count in queue.reasons.items())
    return (
        queue.name,
        queue.kind,
        str(queue.depth),
        by_priority or "-",
        str(queue.waiting),
        str(queue.running),
        seconds(queue.oldest_age_s),
        reasons or "-",
        paused_text(queue.paused) if queue.paused else "-",
    )


def _device_row(device: DeviceStatus) -> tuple[str, ...]:
    power = None if device.power_mw is None else round(device.power_mw / 1000)
    return (
        device.node_name,
        str(device.index),
        device.name or "-",
        gib(device.total_mib),
        gib(device.used_mib),
        gib(device.reserved_mib),
        gib(device.foreign_mib),
        gib(device.schedulable_mib),
        known(device.utilization_pct, "%"),
        known(device.temperature_c, "C"),
        known(power, "W"),
        condition(device),
        str(len(device.executors)),
        device.uuid,
    )


def condition(device: DeviceStatus) -> str:
    """Whether it is used, and what is wrong with it."""
    leak = f"leaking {gib(device.leaking_mib)} GiB" if device.leaking_mib else ""
    drained = f"drained {paused_text(device.drained)}" if device.drained else device.unusable
    return "; ".join(filter(None, (drained, leak))) or device.health_reason or device.health


def _node_row(node: NodeStatus) -> tuple[str, ...]:
    drained = " drained" if node.drained or node.draining else ""
    devices = f"{len(node.devices)}{' simulated' if node.simulated else ''}{drained}"
    return (
        node.name,
        node.address,
        cpus_text(node),
        memory_text(node),
        devices,
        seconds(node.reading_age_s),
        labels_text(node) or "-",
        node.node_id,
    )


def cpus_text(node: NodeStatus) -> str:
    """Free CPUs of all."""
    return f"{node.cpus_free_milli / 1000:g} of {node.cpus_milli / 1000:g}"


def memory_text(node: NodeStatus) -> str:
    """Free memory of all, in GiB."""
    return f"{gib(node.memory_free_mib)} of {gib(node.memory_mib)}"


def labels_text(node: NodeStatus) -> str:
    """Its labels, by name."""
    return " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))


def task_row(task: TaskRecord, now: float) -> tuple[str, ...]:
    """A task's line.

    Args:
        now: seconds since the epoch.
    """
    wait = task.wait_s if task.started_at or task.ended_at else now - task.received_at
    run = task.run_s if task.ended_at or not task.started_at else now - task.started_at
    ended = "-" if task.ended_at is None else f"{seconds(max(0.0, now - task.ended_at))} ago"
    vram = task.raised_mib or task.vram_mib
    asked = gib(vram) if vram else ("whole" if task.gpus else "-")
    return (
        task.task_id,
        task.name,
        task.queue,
        str(task.priority),
        task.state,
        task.node_name or "-",
        (f"{task.gpus}x{asked}" if task.gpus > 1 else asked)
        + (f" ({len(task.out_of_memory)} OOM)" if task.out_of_memory else ""),
        gib(task.peak_mib),
        "-" if task.warm is None else ("yes" if task.warm else "no"),
        seconds(wait),
        seconds(run),
        ended,
        task.reason or task.detail or "-",
    )
