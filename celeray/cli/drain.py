"""`celeray drain` and `celeray undrain`: take a device or a node out of use, and back. They write to Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
from redis import RedisError

from celeray.cli.lazy import EXIT_UNREACHABLE, CliError
from celeray.cli.options import change_options, environment_url, open_place
from celeray.cli.pause import user_at_host
from celeray.cli.render import paused_text, print_json
from celeray.scheduler.draining import (
    DRAINED_WHY,
    UNDRAINED_WHY,
    DrainChange,
    Drains,
    Subject,
    SubjectKind,
)

KIND = click.Choice([kind.value for kind in SubjectKind])


@click.command()
@click.option("--reason", default=DRAINED_WHY, show_default=True, help="For those who find it drained.")
@change_options
@click.argument("kind", type=KIND)
@click.argument("name")
def drain(kind: str, name: str, reason: str, by: str | None, output: str, **place: Any) -> None:
    """Place nothing new on a device (NAME is its UUID) or a node (its name or id) until it is undrained.

    What runs there finishes, idle executors end, and waiting tasks are placed elsewhere.
    """
    drains, subject = open_drains(**place), Subject(SubjectKind(kind), name)
    change = _answered(lambda: drains.drain(subject, by=by or user_at_host(), why=reason, now=time.time()))
    if output == "json":
        print_json(change)
        return
    assert change.drained is not None
    already = "is drained" if change.changed else "was drained already,"
    click.echo(f"{subject} {already} {paused_text(change.drained)}")


@click.command()
@click.option("--reason", default=UNDRAINED_WHY, help="For the audit trail.")
@change_options
@click.argument("kind", type=KIND)
@click.argument("name")
def undrain(kind: str, name: str, reason: str, by: str | None, output: str, **place: Any) -> None:
    """Use a device or a node again, and forgive the XIDs that keep it out now."""
    drains, subject = open_drains(**place), Subject(SubjectKind(kind), name)
    change = _answered(lambda: drains.undrain(subject, by=by or user_at_host(), why=reason, now=time.time()))
    if output == "json":
        print_json(change)
        return
    click.echo(f"{subject} is undrained" if change.changed else f"{subject} was not drained")
    for uuid in change.forgiven:
        click.echo(f"the XIDs of device {uuid} are forgiven")


def open_drains(
    *,
    app: Any | None,
    redis_url: str | None,
    key_prefix: str | None,
    config_file: str | None,
    **_preload: Any,
) -> Drains:
    """The drains of the cluster whose Redis the options name."""
    url = redis_url or (None if app else environment_url())
    return Drains(open_place(app, url, key_prefix=key_prefix, config_file=config_file).store)


def _answered(change: Callable[[], DrainChange]) -> DrainChange:
    try:
        return change()
    except RedisError as error:
        raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
