"""`celeray get learned` and `celeray learned reset`: what runs were seen to use of a device, and how to forget it."""

from __future__ import annotations

import time
from typing import Any

import click

from celeray.cli.changing import answered, place_of_change, user_at_host
from celeray.cli.options import Place, change_options, output_option
from celeray.cli.render import gib, print_json, print_table, seconds
from celeray.cli.status import open_source, source_options
from celeray.scheduler.learned.overview import LearnedTask, reset_of
from celeray.scheduler.learned.store import LearnedStore

COLUMNS = ("task", "device type", "asked", "runs", "p50", "p95", "max", "learned", "last seen")


@click.command("learned")
@click.argument("name", required=False)
@source_options
@output_option
def get_learned(name: str | None, output: str, **options: Any) -> None:
    """VRAM in GiB that runs used on a device, by task name or all, beside what was asked for.

    What `"request": "learned"` gets stands under LEARNED; a dash: too few runs were seen yet.
    """
    found = open_source(**options).learned()
    shown = found.model_copy(update={"tasks": tuple(t for t in found.tasks if name in (None, t.task))})
    if output == "json":
        print_json(shown)
        return
    now = time.time()
    print_table(COLUMNS, (_row(task, now) for task in shown.tasks), empty="nothing learned")


def _row(task: LearnedTask, now: float) -> tuple[str, ...]:
    return (
        task.task,
        task.gpu_type,
        "whole" if task.asked_mib is None else gib(task.asked_mib),
        str(task.observed.runs),
        gib(task.observed.p50_mib),
        gib(task.observed.p95_mib),
        gib(task.observed.max_mib),
        gib(task.learned_mib),
        f"{seconds(max(0.0, now - task.seen_at))} ago",
    )


@click.group()
def learned() -> None:
    """What was learned of tasks' VRAM; `celeray get learned` shows it."""


@learned.command()
@click.option("--why", required=True, help="For the audit trail.")
@click.option("--gpu-type", help="Of this device model only, as `celeray get learned` spells it.")
@change_options
@click.argument("task")
def reset(task: str, why: str, gpu_type: str | None, by: str | None, output: str, **place: Any) -> None:
    """Forget what was learned of TASK, its full name.

    Its requests count as declared again, until enough runs were seen. Writes to Redis itself.
    """
    store = _store_at(place_of_change(**place))
    said = by or user_at_host()
    forgotten = answered(lambda: store.reset(task, gpu_type=gpu_type, by=said, why=why, now=time.time()))
    done = reset_of(task, forgotten)
    if output == "json":
        print_json(done)
        return
    click.echo(f"what was learned of {task} on {', '.join(done.gpu_types)} is forgotten")


def _store_at(place: Place) -> LearnedStore:
    return LearnedStore(place.store.client, place.store.keys)
