"""`celeray get limits`."""

from __future__ import annotations

import time
from typing import Any

import click

from celeray.cli.options import output_option
from celeray.cli.render import known, print_json, print_table, seconds
from celeray.cli.status import open_source, source_options
from celeray.scheduler.limits.overview import LimitStatus

COLUMNS = ("limit", "value", "rate", "waiting", "called", "running", "next in", "held by")
HOLDERS_SHOWN = 3


@click.command("limits")
@click.argument("name", required=False)
@source_options
@output_option
def get_limits(name: str | None, output: str, **options: Any) -> None:
    """Cluster-wide limits in use, by name or all: what waits for them, and which runs are in the way."""
    found = open_source(**options).limits()
    shown = found.model_copy(
        update={"limits": tuple(limit for limit in found.limits if name in (None, limit.name))}
    )
    if output == "json":
        print_json(shown)
        return
    now = time.time()
    print_table(COLUMNS, (_row(limit, now) for limit in shown.limits), empty="no limits in use")
    if found.more:
        click.echo(f"{found.more} more are not shown")


def _row(limit: LimitStatus, now: float) -> tuple[str, ...]:
    holders = [
        f"{holder.task_id} on {holder.worker} for {seconds(max(0.0, now - holder.since))}"
        for holder in limit.holders[:HOLDERS_SHOWN]
        if holder.alive
    ]
    running = "-" if limit.running is None else f"{limit.running} of {limit.concurrency}"
    return (
        limit.name,
        known(limit.value),
        known(limit.rate),
        str(limit.waiting),
        str(limit.called),
        running,
        seconds(limit.next_in_s),
        ", ".join(holders) or "-",
    )
