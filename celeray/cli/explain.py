"""`celeray explain`: why a task waits, or what would become of a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from pydantic import ValidationError

from celeray.api.explained import TaskExplanation
from celeray.cli.lazy import EXIT_FAILED, EXIT_USAGE, CliError
from celeray.cli.letter_filters import line
from celeray.cli.options import output_option
from celeray.cli.render import gib, print_json, print_table, seconds, styled
from celeray.cli.status import open_source, source_options
from celeray.scheduler.explanations.answers import (
    DeviceAnswer,
    DryRun,
    NodeAnswer,
    RequestAnswer,
    ReservationAnswer,
    StartAnswer,
    Verdict,
    WaitingAnswer,
)
from celeray.scheduler.explanations.reading import DryRunBody

COLUMNS = ("node", "device", "type", "free GiB", "total", "reason", "why", "held by")
NAME_WIDTH = 11


@click.command()
@click.argument("task_id", required=False)
@click.option("--request", help='What would be asked for, as JSON: \'{"gpu": 1, "vram_gb": 12}\'.')
@click.option(
    "--ask",
    "asks",
    multiple=True,
    metavar="KEY=VALUE",
    help="The same by key, for instance vram_gb=12; repeat it.",
)
@click.option("--queue", help="With a request: its queue. Default: the one that it is routed to.")
@click.option(
    "--task", "task", help="With a request: the task's full name, by which it may find a warm executor."
)
@click.option("--priority", type=click.IntRange(1, 10), help="With a request. Default: 5.")
@source_options
@output_option
@click.pass_context
def explain(
    ctx: click.Context,
    /,
    task_id: str | None,
    request: str | None,
    asks: Sequence[str],
    queue: str | None,
    task: str | None,
    priority: int | None,
    output: str,
    **options: Any,
) -> None:
    """Say why TASK_ID waits, where it runs or how it ended; or what would become of a request, without submitting it.

    A line for each device says why it can't take the task, and who has it. Exit code 1: nobody knows the task, or the
    request can never fit.
    """
    asked = {
        "resource_requirements": _requirements(request, asks),
        "queue": queue,
        "task": task,
        "priority": priority,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if bool(task_id) is bool(given):
        raise CliError("give either TASK_ID, or a request by --request, --ask, --queue or --task", EXIT_USAGE)
    source = open_source(**options)
    if task_id:
        _print_task(source.explain(task_id), task_id, output)
        return
    found = source.dry_run(_body(given))
    _print_request(found, output)
    ctx.exit(EXIT_FAILED if any(one.verdict is Verdict.NEVER for one in found.tasks) else 0)


def _requirements(request: str | None, asks: Sequence[str]) -> dict[str, Any] | None:
    if request is not None and asks:
        raise CliError("give --request or --ask, not both", EXIT_USAGE)
    if request is not None:
        try:
            found = json.loads(request)
        except ValueError as error:
            raise CliError(f"--request={request!r}: expected JSON: {error}", EXIT_USAGE) from error
        if not isinstance(found, dict):
            raise CliError(f"--request={request!r}: expected a JSON object", EXIT_USAGE)
        return found
    return dict(map(_ask, asks)) or None


def _ask(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CliError(f"--ask={text!r}: expected KEY=VALUE, for instance vram_gb=12", EXIT_USAGE)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _body(given: dict[str, Any]) -> DryRunBody:
    try:
        return DryRunBody(**given)
    except ValidationError as error:
        said = "; ".join(f"--{item['loc'][0]}: {item['msg']}" for item in error.errors())
        raise CliError(said, EXIT_USAGE) from error


def _print_task(found: TaskExplanation | None, task_id: str, output: str) -> None:
    if found is None:
        raise CliError(
            f"no task {task_id!r}: no bridge, no stored result and no dead letter knows it; it waits on the broker, "
            "ended too long ago, or never was",
            EXIT_FAILED,
        )
    if output == "json":
        print_json(found)
        return
    _say("task", found.task_id)
    _say("state", styled(found.state or "known by its letter only"))
    _say("why" if found.waiting else "how", found.words)
    if found.waiting is not None:
        _waiting(found.waiting)
    for letter in found.letters:
        _say("letter", f"{letter.id}, {letter.state}: {letter.reason}")


def _waiting(found: WaitingAnswer) -> None:
    more = " at least" if found.ahead_is_least else ""
    _say("reason", found.reason or "none yet")
    _say("ahead", f"{found.ahead} task(s){more}, at its own priority {found.priority}")
    _start(found.start)
    _kept(found.reservation)
    _say("bridge", f"{found.bridge}, as of {seconds(found.age_s)} ago")
    _devices(found.nodes)


def _print_request(found: DryRun, output: str) -> None:
    if output == "json":
        print_json(found)
        return
    for one in found.tasks:
        _request(one)
    _say("bridges", f"{found.bridges} asked, as of {seconds(found.age_s)} ago")
    for one in found.tasks:
        if one.verdict is not Verdict.WORKER:
            _devices(one.nodes)


def _request(one: RequestAnswer) -> None:
    _say("verdict", one.verdict)
    _say("why", one.words)
    _say("queue", f"{one.queue} at priority {one.priority}, behind {one.on_broker} message(s) on the broker")
    if one.verdict in (Verdict.START, Verdict.WAIT):
        _start(one.start)
        _say("bridge", one.bridge or "-")


def _start(start: StartAnswer | None) -> None:
    if start is None or start.starts_in_s is None:
        _say("starts", "not known" if start is None else f"not known: {start.why}")
        return
    guess = "" if start.known else ", a guess"
    where = f" on {start.node_name} {' '.join(start.device_uuids)}".rstrip() if start.node_name else ""
    how = (
        f", in executor {start.executor_id}" if start.executor_id else ", in a new executor" if where else ""
    )
    when = f"in {seconds(start.starts_in_s)}" if start.starts_in_s else "now"
    _say("starts", f"{when}{where}{how}{guess}")


def _kept(kept: ReservationAnswer | None) -> None:
    if kept is not None:
        whose = "this task" if kept.own else kept.task_id
        when = "" if kept.starts_in_s is None else f", in {seconds(kept.starts_in_s)}"
        _say("reserved", f"{kept.node_name} {' '.join(kept.device_uuids)} for {whose}{when}")


def _devices(nodes: Iterable[NodeAnswer]) -> None:
    rows: list[tuple[str, ...]] = []
    for node in nodes:
        if node.reason is not None or not node.devices:
            rows.append((node.name, "-", "-", "-", "-", node.reason or "ok", node.words, "-"))
        rows += [_device_row(node, device) for device in node.devices]
    print_table(COLUMNS, rows, empty="no nodes")


def _device_row(node: NodeAnswer, device: DeviceAnswer) -> tuple[str, ...]:
    kept = f" Room is kept for {device.reserved_for}." if device.reserved_for else ""
    return (
        node.name,
        device.uuid,
        device.gpu_type or "-",
        gib(device.schedulable_mib),
        gib(device.total_mib),
        device.reason or "ok",
        device.words + kept,
        "; ".join(_holders(device)) or "-",
    )


def _holders(device: DeviceAnswer) -> Iterable[str]:
    for holder in device.held_by:
        doing = "idle" if holder.idle else " ".join(holder.tasks) or "starting or busy"
        ends = "" if holder.ends_in_s is None else f", ends in {seconds(holder.ends_in_s)}"
        yield f"{holder.executor_class} {gib(holder.memory_mib)} GiB ({doing}{ends})"


def _say(name: str, value: str) -> None:
    click.echo(f"{name:<{NAME_WIDTH}}{line(value)}")
