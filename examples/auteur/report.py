"""What the demo prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from examples.auteur.watch import Where

MIB_PER_GIB = 1024


def task_table(rows: Iterable[Where]) -> Table:
    """Where each task ran."""
    table = Table(title="Where each task ran", title_justify="left")
    for column in ("task", "queue", "node or worker", "device"):
        table.add_column(column, no_wrap=True)
    for column in ("VRAM asked", "wait", "run"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.task,
            row.queue,
            row.node,
            "\n".join(row.devices),
            "" if row.vram_mib is None else f"{row.vram_mib / MIB_PER_GIB:g} GiB",
            seconds(row.wait_s),
            seconds(row.run_s),
        )
    return table


def device_table(devices: Iterable[dict[str, Any]]) -> Table:
    """The devices as /v1/devices has them."""
    table = Table(title="Devices (GET /v1/devices)", title_justify="left")
    table.add_column("device", no_wrap=True)
    for column in ("VRAM", "reserved", "schedulable", "executors"):
        table.add_column(column, justify="right", no_wrap=True)
    for device in devices:
        sizes = (device["total_mib"], device["reserved_mib"], device["schedulable_mib"])
        table.add_row(device["uuid"], *(gib(size) for size in sizes), str(len(device["executors"])))
    return table


def model_line(cold: dict[str, Any], warm: dict[str, Any]) -> str:
    """The model's first and second call, side by side."""
    return (
        f"The model that reads the titles (PP-OCRv4, on the {cold['model_on']}):\n"
        f"  cold: read {cold['read']!r}, loaded in {cold['load_s']:.2f} s, ran {cold['run_s']:.2f} s\n"
        f"  warm: read {warm['read']!r}, loaded in {warm['load_s']:.2f} s, ran {warm['run_s']:.2f} s, "
        f"in process {warm['ran']['pid']}, CUDA_VISIBLE_DEVICES={warm['ran']['cuda_visible_devices']}"
    )


def status_line(status: dict[str, Any]) -> str:
    """The status as /v1/status has it."""
    problems = "".join(f"\n  problem: {problem}" for problem in status["problems"])
    return (
        f"Status (GET /v1/status): {status['state']}; Redis {word(status['redis_ok'])}, Ray "
        f"{word(status['ray_connected'])}, {len(status['bridges'])} bridge(s), {status['nodes']} node(s), "
        f"{status['devices_healthy']} of {status['devices']} devices usable, {status['executors']} executors, "
        f"{gib(status['vram_schedulable_mib'])} of {gib(status['vram_total_mib'])} VRAM schedulable, "
        f"{status['queued']} queued, {status['waiting']} waiting, {status['running']} running{problems}"
    )


def gib(mib: int | None) -> str:
    return "unknown" if mib is None else f"{mib / MIB_PER_GIB:g} GiB"


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def word(good: bool) -> str:
    return "up" if good else "down"
