"""`celeray pause` and `celeray resume`: hold a queue back, and let it go. They write to Redis themselves."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable
from typing import Any

import click
from redis import RedisError

from celeray.cli.lazy import EXIT_UNREACHABLE, CliError
from celeray.cli.options import change_options, environment_url, open_place
from celeray.cli.render import paused_text, print_json
from celeray.scheduler.pausing import RESUMED_WHY, PauseChange, Pauses


@click.command()
@click.option("--why", required=True, help="For those who find the queue paused.")
@change_options
@click.argument("queue")
def pause(queue: str, why: str, by: str | None, output: str, **place: Any) -> None:
    """Let no worker take from QUEUE until it is resumed, workers that start later included.

    Running tasks finish; submissions still queue up. Needs transport = "leased".
    """
    pauses = open_pauses(**place)
    change = _answered(lambda: pauses.pause(queue, by=by or user_at_host(), why=why, now=time.time()))
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
    pauses = open_pauses(**place)
    change = _answered(lambda: pauses.resume(queue, by=by or user_at_host(), why=why, now=time.time()))
    if output == "json":
        print_json(change)
        return
    click.echo(f"{queue} is resumed" if change.changed else f"{queue} was not paused")


def open_pauses(
    *,
    app: Any | None,
    redis_url: str | None,
    key_prefix: str | None,
    config_file: str | None,
    **_preload: Any,
) -> Pauses:
    """The pauses of the broker that the options name."""
    url = redis_url or (None if app else environment_url())
    place = open_place(app, url, key_prefix=key_prefix, config_file=config_file)
    return Pauses(place.store, place.settings, place.broker_kind)


def user_at_host() -> str:
    """Who runs the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _answered(change: Callable[[], PauseChange]) -> PauseChange:
    try:
        return change()
    except RedisError as error:
        raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
