"""`celeray describe task|device|node`: one of them, with everything that is known of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from celeray.cli.dead_letters import attempt_lines
from celeray.cli.descriptions import (
    DescribedLetter,
    DeviceDescription,
    NodeDescription,
    TaskDescription,
    describe_device,
    describe_node,
    describe_task,
)
from celeray.cli.get import TASK_COLUMNS, condition, cpus_text, labels_text, memory_text, task_row
from celeray.cli.letter_filters import line
from celeray.cli.options import output_option
from celeray.cli.render import gib, known, moment, paused_text, print_json, print_table, seconds, styled
from celeray.cli.status import open_source, source_options
from celeray.scheduler.status import UNFINISHED, TaskRecord

M = TypeVar("M", bound=BaseModel)
NAME_WIDTH = 11
"""As the attempts of a letter have it."""
COLOURED = frozenset({"state", "health"})


@click.group()
def describe() -> None:
    """Show one task, device or node with all that is known of it. Exit code 1: there is none of that name."""


@describe.command("task")
@click.argument("task_id", metavar="ID")
@source_options
@output_option
def of_task(task_id: str, output: str, **options: Any) -> None:
    """A task: its state, where it ran or why it waits, VRAM asked and seen, times, and its dead letters."""
    _show(describe_task(open_source(**options), task_id), output, _task)


@describe.command("device")
@click.argument("uuid")
@source_options
@output_option
def of_device(uuid: str, output: str, **options: Any) -> None:
    """A GPU by its uuid: VRAM, health, why it is not used, and the tasks that run there."""
    _show(describe_device(open_source(**options), uuid), output, _device)


@describe.command("node")
@click.argument("name")
@source_options
@output_option
def of_node(name: str, output: str, **options: Any) -> None:
    """A node by its name or id: CPUs, memory, devices, and the tasks that run there."""
    _show(describe_node(open_source(**options), name), output, _node)


def _show(found: M, output: str, tell: Callable[[M], None]) -> None:
    if output == "json":
        print_json(found)
    else:
        tell(found)


def _task(found: TaskDescription) -> None:
    now = time.time()
    _say({"task": found.task_id, "state": found.state or "known by its dead letter only"})
    if found.run is not None:
        _say(_run_parts(found.run, now))
    if found.result is not None:
        result = found.result
        _say(
            {
                "result": " ".join(filter(None, [result.status, result.exception])),
                "done": result.date_done,
                "worker": result.worker,
                "retries": result.retries,
            }
        )
    for letter in found.letters:
        _say(_letter_parts(letter))
        for text in (text for attempt in letter.history or () for text in attempt_lines(attempt)):
            click.echo(text)


def _run_parts(run: TaskRecord, now: float) -> dict[str, Any]:
    waits = run.started_at is None and run.state in UNFINISHED
    wait = run.wait_s if run.started_at or run.ended_at else now - run.received_at
    took = run.run_s if run.ended_at or not run.started_at else now - run.started_at
    return {
        "name": run.name,
        "queue": f"{run.queue} at priority {run.priority}",
        "tenant": run.tenant,
        "bridge": run.hostname,
        "waits": (run.reason or "for its turn") if waits else None,
        "why": None if waits else run.reason,
        "detail": run.detail,
        "node": run.node_name,
        "devices": " ".join(run.device_uuids),
        "executor": _executor(run),
        "asked": _asked(run),
        "VRAM": _vram(run),
        "ran out": _ran_out(run),
        "put back": run.preempted and f"{moment(run.preempted.at)} for the urgent {run.preempted.for_task}",
        "received": moment(run.received_at),
        "started": run.started_at and f"{moment(run.started_at)} after {seconds(wait)}",
        "waited": seconds(wait) if run.started_at is None else None,
        "ended": run.ended_at and moment(run.ended_at),
        "ran": seconds(took) if run.started_at else None,
    }


def _executor(run: TaskRecord) -> str | None:
    if run.executor_id is None:
        return None
    return f"{run.executor_id}, {'warm' if run.warm else 'new'}, of the class {run.executor_class}"


def _asked(run: TaskRecord) -> str:
    if not run.gpus:
        return "no device"
    vram = "whole" if run.vram_mib is None else f"with {gib(run.vram_mib)} GiB"
    raised = f", {gib(run.raised_mib)} GiB since it ran out" if run.raised_mib else ""
    return f"{run.gpus} device(s) {vram}{raised}"


def _vram(run: TaskRecord) -> str | None:
    if run.reserved_mib is None and run.peak_mib is None:
        return None
    how = f", by {run.peak_attribution}" if run.peak_attribution else ""
    return f"{gib(run.reserved_mib)} GiB reserved a device, {gib(run.peak_mib)} GiB at its peak{how}"


def _ran_out(run: TaskRecord) -> str | None:
    times = (
        f"with {gib(one.reserved_mib)} GiB on {one.node_name or '-'} at {moment(one.at)}"
        for one in run.out_of_memory
    )
    return "; ".join(times)


def _letter_parts(letter: DescribedLetter) -> dict[str, Any]:
    when = letter.due_at or letter.past_at
    return {
        "letter": f"{letter.id}, {letter.state}{f', {moment(when)}' if when else ''}",
        "reason": f"{letter.reason}: {letter.detail}",
        "queue": f"{letter.queue or '-'} at priority {letter.priority}",
        "parked": f"{moment(letter.parked_at) if letter.parked_at else '-'}, {letter.begun} runs begun",
        "attempts": f"{letter.attempts}{'' if letter.history is not None else '; each needs an operator token'}",
    }


def _device(found: DeviceDescription) -> None:
    device = found.device
    power = None if device.power_mw is None else round(device.power_mw / 1000)
    load = (device.utilization_pct, "%"), (device.temperature_c, " C"), (power, " W")
    xids = ", ".join(f"{xid} ({times} times)" for xid, times in sorted(device.xids.items()))
    _say(
        {
            "device": device.uuid,
            "name": device.name,
            "node": f"{device.node_name}, GPU {device.index}",
            "health": device.health,
            "condition": condition(device),
            "why": device.health_reason,
            "remedy": device.remedy,
            "drained": device.drained and paused_text(device.drained),
            "VRAM": f"{gib(device.schedulable_mib)} of {gib(device.total_mib)} GiB schedulable",
            "used": f"{gib(device.used_mib)} GiB, of it {gib(device.foreign_mib)} GiB by others",
            "reserved": f"{gib(device.reserved_mib)} GiB",
            "leaking": device.leaking_mib
            and f"{gib(device.leaking_mib)} GiB of {' '.join(map(str, device.leaking_pids)) or 'nobody known'}",
            "load": ", ".join(known(value, unit) for value, unit in load),
            "XIDs": xids,
            "executors": " ".join(device.executors) or "none",
        }
    )
    _tasks(found.tasks)


def _node(found: NodeDescription) -> None:
    node = found.node
    _say(
        {
            "node": node.name,
            "id": node.node_id,
            "address": node.address,
            "CPUs": f"{cpus_text(node)} free",
            "memory": f"{memory_text(node)} GiB free",
            "labels": labels_text(node),
            "driver": node.driver_version,
            "devices": f"{len(node.devices)}{', simulated' if node.simulated else ''}",
            "drained": node.drained and paused_text(node.drained),
            "reading": f"{seconds(node.reading_age_s)} old; VRAM told apart by {node.attribution}",
        }
    )
    rows = (
        (
            str(one.index),
            one.name or "-",
            gib(one.schedulable_mib),
            gib(one.total_mib),
            condition(one),
            one.uuid,
        )
        for one in found.devices
    )
    print_table(("gpu", "name", "schedulable", "total", "health", "uuid"), rows, empty="no devices")
    if node.links:
        numbers = {one.uuid: str(one.index) for one in found.devices}
        names = [numbers.get(uuid, uuid) for uuid in node.devices]
        linked = ((name, *row) for name, row in zip(names, node.links, strict=True))
        print_table(("links", *names), linked, empty="none")
    _tasks(found.tasks)


def _tasks(tasks: Iterable[TaskRecord]) -> None:
    now = time.time()
    print_table(TASK_COLUMNS, (task_row(task, now) for task in tasks), empty="no tasks run there")


def _say(parts: Mapping[str, Any]) -> None:
    """A line each; what is not known is left out."""
    for name, value in parts.items():
        if value not in (None, "", 0):
            text = line(str(value))
            click.echo(f"{name:<{NAME_WIDTH}}{styled(text) if name in COLOURED else text}")
