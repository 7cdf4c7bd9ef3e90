"""`celeray pause` and `celeray resume`: hold a queue back, and let it go. They write to Redis themselves."""

from __future__ import annotations

import time
from typing import Any

import click

from celeray.cli.changing import answered, place_of_change, user_at_host
from celeray.cli.options import Place, change_options
from celeray.cli.render import paused_text, print_json
from celeray.scheduler.pausing import RESUMED_WHY, Pauses


@click.command()
@click.option("--why", required=True, help="For those who find the queue paused.")
@change_options
@click.argument("queue")
def pause(queue: str, why: str, by: str | None, output: str, **place: Any) -> None:
    """Let no worker take from QUEUE until it is resumed, workers that start later included.

    Running tasks finish; submissions still queue up. Needs transport = "leased".
    """
    pauses = _pauses_at(place_of_change(**place))
    change = answered(lambda: pauses.pause(queue, by=by or user_at_host(), why=why, now=time.time()))
    if output == "json":
        print_json(change)
        return
    assert change.paused is not None
    already = "" if change.changed else " was paused already,"
    click.echo(f"{queue}{already or ' is paused'} {paused_text(change.paused)}")


@click.command()
@click.option("--why", default=RESUMED_WHY, help="For the audit trail.")
@change_options
@click.argument("queue")
def resume(queue: str, why: str, by: str | None, output: str, **place: Any) -> None:
    """Let workers take from QUEUE again."""
    pauses = _pauses_at(place_of_change(**place))
    change = answered(lambda: pauses.resume(queue, by=by or user_at_host(), why=why, now=time.time()))
    if output == "json":
        print_json(change)
        return
    click.echo(f"{queue} is resumed" if change.changed else f"{queue} was not paused")


def _pauses_at(place: Place) -> Pauses:
    return Pauses(place.store, place.settings, place.broker_kind)
