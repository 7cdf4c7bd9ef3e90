"""`celeray drain` and `celeray undrain`: take a device or a node out of use, and back. They write to Redis."""

from __future__ import annotations

import time
from typing import Any

import click

from celeray.cli.changing import answered, place_of_change, user_at_host
from celeray.cli.options import change_options
from celeray.cli.render import paused_text, print_json
from celeray.scheduler.draining import (
    DRAINED_WHY,
    UNDRAINED_WHY,
    Drains,
    Subject,
    SubjectKind,
)

KIND = click.Choice([kind.value for kind in SubjectKind])


@click.command()
@click.option("--why", default=DRAINED_WHY, show_default=True, help="For those who find it drained.")
@change_options
@click.argument("kind", type=KIND)
@click.argument("name")
def drain(kind: str, name: str, why: str, by: str | None, output: str, **place: Any) -> None:
    """Place nothing new on a device (NAME is its UUID) or a node (its name or id) until it is undrained.

    What runs there finishes, idle executors end, and waiting tasks are placed elsewhere.
    """
    drains, subject = Drains(place_of_change(**place).store), Subject(SubjectKind(kind), name)
    change = answered(lambda: drains.drain(subject, by=by or user_at_host(), why=why, now=time.time()))
    if output == "json":
        print_json(change)
        return
    assert change.drained is not None
    already = "is drained" if change.changed else "was drained already,"
    click.echo(f"{subject} {already} {paused_text(change.drained)}")


@click.command()
@click.option("--why", default=UNDRAINED_WHY, show_default=True, help="For the audit trail.")
@change_options
@click.argument("kind", type=KIND)
@click.argument("name")
def undrain(kind: str, name: str, why: str, by: str | None, output: str, **place: Any) -> None:
    """Use a device or a node again, and forgive the XIDs that keep it out now."""
    drains, subject = Drains(place_of_change(**place).store), Subject(SubjectKind(kind), name)
    change = answered(lambda: drains.undrain(subject, by=by or user_at_host(), why=why, now=time.time()))
    if output == "json":
        print_json(change)
        return
    click.echo(f"{subject} is undrained" if change.changed else f"{subject} was not drained")
    for uuid in change.forgiven:
        click.echo(f"the XIDs of device {uuid} are forgiven")
