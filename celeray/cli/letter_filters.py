"""The options that choose dead letters, and how their texts are printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from celeray.cli.lazy import EXIT_USAGE, CliError

if TYPE_CHECKING:
    from celeray.scheduler.letters.store import LetterFilter

F = TypeVar("F", bound=Callable[..., Any])
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def filter_options(command: F) -> F:
    """Which letters."""
    for option in (
        click.option("--until", "until", help="Parked before: as --since."),
        click.option(
            "--since", "since", help="Parked then or later: 30m, 2h, 1d ago, or a time as 2026-01-31T08:00."
        ),
        click.option(
            "--state",
            type=click.Choice(["parked", "scheduled", "redriven", "discarded"]),
            default="parked",
            show_default=True,
            help="Or what a retry policy sends again, and what was sent or discarded in the last hour.",
        ),
        click.option(
            "--exception", help="Pattern of the last exception's class, as ValueError or http*Error."
        ),
        click.option("--reason", help="For instance poison."),
        click.option("--task", help="Pattern of task names with *, ? and [...]."),
        click.option("--queue", help="The queue that they came from."),
    ):
        command = option(command)
    return command


def letter_filter(
    queue: str | None,
    task: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    *,
    exception: str | None = None,
    state: str = "parked",
) -> LetterFilter:
    """The filter that the options say.

    Raises:
        CliError: a time can't be understood.
    """
    from celeray.scheduler.letters.record import LetterState
    from celeray.scheduler.letters.store import LetterFilter

    return LetterFilter(
        queue=queue,
        task=task,
        reason=reason,
        exception=exception,
        state=LetterState(state),
        since=_time("--since", since),
        until=_time("--until", until),
    )


def _time(option: str, text: str | None) -> float | None:
    """Seconds since the epoch of a duration ago, or of a time, which is this machine's where it names no zone."""
    if text is None:
        return None
    if text[-1:] in UNITS_S and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 12:
        return time.time() - int(text[:-1]) * UNITS_S[text[-1]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise CliError(
            f"{option} {text!r}: expected 90s, 30m, 2h, 1d, or a time by ISO 8601", EXIT_USAGE
        ) from error


def line(text: str) -> str:
    """Without what would steer a terminal: messages are written by others."""
    return "".join(one if one.isprintable() else "?" for one in text)
