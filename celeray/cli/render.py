"""Prints models: a table for people, aligned columns for a pipe, JSON for programs. Colour only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import click
from pydantic import BaseModel

from celeray.scheduler.suspensions import Drain, Pause

STYLES = {
    "ok": "green",
    "healthy": "green",
    "succeeded": "green",
    "degraded": "red",
    "unhealthy": "red",
    "failed": "red",
    "lost": "red",
    "timeout": "red",
    "down": "red",
    "running": "cyan",
    "waiting": "yellow",
    "paused": "yellow",
}


def print_json(model: BaseModel) -> None:
    """The model as REST sends it."""
    click.echo(model.model_dump_json(indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Rows under columns; `empty` where there are none."""
    body = [tuple(row) for row in rows]
    if not body:
        click.echo(empty)
    elif sys.stdout.isatty():
        _print_rich(columns, body)
    else:
        widths = [max(len(row[index]) for row in (columns, *body)) for index in range(len(columns))]
        for row in (tuple(name.upper() for name in columns), *body):
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def styled(word: str) -> str:
    """A state in its colour, where colour is shown."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return word
    return click.style(word, fg=STYLES.get(word))


def gib(mib: int | None) -> str:
    """Memory in GiB; `-` where it is unknown."""
    return "-" if mib is None else f"{mib / 1024:.1f}"


def seconds(value: float | None) -> str:
    """A duration; `-` where it is unknown."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f}ms"
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def known(value: object | None, unit: str = "") -> str:
    """A value with its unit; `-` where it is unknown."""
    return "-" if value is None else f"{value}{unit}"


def moment(at: float) -> str:
    """A time of this machine's zone, to the second."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def paused_text(pause: Pause | Drain) -> str:
    """Who paused a queue or drained a device, since when and why."""
    return f"by {pause.by} since {moment(pause.at)}: {pause.why}"
