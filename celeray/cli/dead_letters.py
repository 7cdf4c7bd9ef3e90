"""`celeray dead-letters list|show|redrive|discard`; `list` is `celeray get dead-letters` too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from celeray.cli.lazy import EXIT_FAILED, CliError
from celeray.cli.letter_changes import discard, redrive
from celeray.cli.letter_filters import filter_options, letter_filter, line
from celeray.cli.options import output_option
from celeray.cli.render import moment, print_json, print_table, seconds
from celeray.cli.status import open_source, source_options

if TYPE_CHECKING:
    from celeray.scheduler.letters.attempts import Attempt
    from celeray.scheduler.letters.record import Letter, LetterDetail

COLUMNS = (
    "id",
    "task",
    "task id",
    "queue",
    "prio",
    "state",
    "reason",
    "parked",
    "due",
    "tries",
    "begun",
    "bytes",
    "detail",
)


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that were given up: list, show, send again, discard."""


@click.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Where the page before ended.")
@source_options
@output_option
def list_letters(
    queue: str | None,
    task: str | None,
    reason: str | None,
    exception: str | None,
    state: str,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    output: str,
    **options: Any,
) -> None:
    """Dead letters, the newest first, and how many there are."""
    chosen = letter_filter(queue, task, reason, since, until, exception=exception, state=state)
    found = open_source(**options).dead_letters(chosen, limit=limit, cursor=cursor)
    if output == "json":
        print_json(found)
        return
    print_table(COLUMNS, map(_row, found.letters), empty="no dead letters")
    if found.total:
        reasons = ", ".join(f"{count} {line(name)}" for name, count in found.by_reason.items())
        click.echo(f"{found.total} in all: {reasons}")
    if found.next:
        click.echo(f"more with --cursor {line(found.next)}")


@click.command("show")
@click.argument("letter_id", metavar="ID")
@source_options
@output_option
def show_letter(letter_id: str, output: str, **options: Any) -> None:
    """One dead letter with its headers, properties and body. The API gives it to operators only."""
    found = open_source(**options).dead_letter(letter_id)
    if found is None:
        raise CliError(f"no dead letter {letter_id!r}", EXIT_FAILED)
    if output == "json":
        print_json(found)
        return
    for text in _lines(found):
        click.echo(text)


for command in (list_letters, show_letter, redrive, discard):
    dead_letters.add_command(command)


def _row(letter: Letter) -> tuple[str, ...]:
    return tuple(
        line(cell)
        for cell in (
            letter.id,
            letter.task or "-",
            letter.task_id or "-",
            letter.queue or "-",
            str(letter.priority),
            letter.state,
            letter.reason,
            f"{seconds(max(0.0, time.time() - letter.parked_at))} ago" if letter.parked_at else "-",
            f"in {seconds(max(0.0, letter.due_at - time.time()))}" if letter.due_at else "-",
            str(letter.attempts),
            str(letter.begun),
            str(letter.size),
            letter.detail or "-",
        )
    )


def _lines(found: LetterDetail) -> list[str]:
    parts = {
        "id": found.id,
        "task": f"{found.task or '-'} {found.task_id or ''}",
        "queue": f"{found.queue or '-'} at priority {found.priority}",
        "reason": f"{found.reason}: {found.detail}",
        "parked": f"{moment(found.parked_at) if found.parked_at else '-'}, {found.begun} runs begun",
        "state": _state(found),
        "redrive": "possible" if found.unreadable is None else f"not possible: {found.unreadable}",
        "content": f"{found.content_type or '-'} {found.content_encoding or ''}, {found.size} bytes in all",
        "headers": str(found.headers),
        "properties": str(found.properties),
        "body": found.body if found.body is not None else "no text; -o json has the bytes",
    }
    shown = [f"{name:<11}{line(text)}".rstrip() for name, text in parts.items()]
    return [*shown, *(text for attempt in found.history for text in attempt_lines(attempt))]


def _state(found: LetterDetail) -> str:
    when = found.due_at or found.past_at
    tries = f"{found.attempts} failed attempts, {found.retried} retried by its policy"
    return f"{found.state}{f', {moment(when)}' if when else ''}; {tries}"


def attempt_lines(attempt: Attempt) -> list[str]:
    """What an attempt was, on lines of their own."""
    place = " ".join(filter(None, [attempt.worker, attempt.node, *attempt.devices]))
    asked, peak = (
        "-" if mib is None else f"{mib} MiB" for mib in (attempt.vram_asked_mib, attempt.vram_peak_mib)
    )
    return [
        f"{f'attempt {attempt.number}':<11}{moment(attempt.ended_at)} {attempt.outcome} on {line(place)}",
        f"{'':<11}VRAM asked {asked}, peak {peak}",
        f"{'':<11}{line(attempt.exception)}: {line(attempt.message)}",
        *(f"{'':<13}{line(text)}" for text in attempt.traceback.splitlines()),
    ]
