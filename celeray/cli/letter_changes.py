"""`celeray dead-letters redrive` and `discard`. They write to Redis themselves, as `celeray pause` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from celeray.cli.changing import answered, place_of_change, user_at_host
from celeray.cli.keeper import outbox_of
from celeray.cli.lazy import EXIT_FAILED, EXIT_USAGE, CliError
from celeray.cli.letter_filters import filter_options, letter_filter, line
from celeray.cli.options import Place, change_options
from celeray.cli.render import print_json

if TYPE_CHECKING:
    from celeray.scheduler.letters.discard import Discarded
    from celeray.scheduler.letters.redrive import Redriven
    from celeray.scheduler.letters.selecting import Selection
    from celeray.scheduler.letters.store import Letters

F = TypeVar("F", bound=Callable[..., Any])
D = TypeVar("D", bound="Redriven | Discarded")
SKIPPED_PRINTED = 20
EDITS_PRINTED = 20


def letter_change_options(command: F) -> F:
    """Which letters, where to write, who says so, and how to print."""
    for option in (
        change_options,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Only count."),
        click.option("--all", "every", is_flag=True, help="All dead letters."),
        filter_options,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@click.command("redrive")
@letter_change_options
@click.option("--why", help="For the audit trail.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Letters a second at most.")
@click.option("--to-queue", help="Send to this queue instead of their own.")
@click.option("--priority", type=click.IntRange(1, 10), help="Send at this priority, 10 most urgent.")
@click.option(
    "--request", "asked", multiple=True, metavar="KEY=VALUE", help="Resource requirement: vram_gb=16, say."
)
def redrive(
    why: str | None,
    rate: float | None,
    to_queue: str | None,
    priority: int | None,
    asked: tuple[str, ...],
    dry_run: bool,
    by: str | None,
    yes: bool,
    output: str,
    **options: Any,
) -> None:
    """Send dead letters again, by ID, by filter or --all. Each is sent once, however often this is called.

    Where the broker is no Redis, this publishes them itself with -A; a keeper or a worker of the app does it otherwise.
    Exit code 1: some were not sent.
    """
    from celeray.scheduler.letters.redrive import RATE_MAX, REDRIVE_WHY, Redrive, RedriveTerms

    selection, place = _selection(**options), place_of_change(**options)
    terms = RedriveTerms(
        dry_run=dry_run,
        rate=None if rate is None else min(rate, RATE_MAX),
        queue=to_queue,
        priority=priority,
        request=requirements(asked) or None,
    )
    change = Redrive(_letters(place), place.settings)

    def run(dry: bool) -> Redriven:
        wanted = terms.model_copy(update={"dry_run": dry})
        return _edited(lambda: change.run(selection, wanted, by=by or user_at_host(), why=why or REDRIVE_WHY))

    _confirm(selection, yes or dry_run, run, "send again")
    done = run(dry_run)
    left = _published(place, done)
    _report(done, done.sent, "would be sent again" if dry_run else "sent again", output)
    if left and output != "json":
        click.echo(f"{left} of them are due, and published by a keeper or a worker of the app")
    if output != "json":
        _show_edits(done)
    _exit(done)


@click.command("discard")
@letter_change_options
@click.option("--why", required=True, help="For the audit trail.")
def discard(why: str, dry_run: bool, by: str | None, yes: bool, output: str, **options: Any) -> None:
    """Forget dead letters for good, by ID, by filter or --all. Exit code 1: some were not there."""
    from celeray.scheduler.letters.discard import Discard

    selection = _selection(**options)
    change = Discard(_letters(place_of_change(**options)))

    def run(dry: bool) -> Discarded:
        return _edited(lambda: change.run(selection, by=by or user_at_host(), why=why, dry_run=dry))

    _confirm(selection, yes or dry_run, run, "discard")
    done = run(dry_run)
    _report(done, done.discarded, "would be discarded" if dry_run else "discarded", output)
    _exit(done)


def _published(place: Place, done: Redriven) -> int:
    """Publish what is due where the broker is no Redis. Returns how many were left to keepers and workers."""
    if done.dry_run or not done.to_publish:
        return 0
    outbox = outbox_of(place)
    sent = 0 if outbox is None else answered(outbox.send_due).sent
    return max(0, done.to_publish - sent)


def requirements(pairs: Iterable[str]) -> dict[str, Any]:
    """Resource requirements of `KEY=VALUE`. A value that is no JSON is a string: vram_gb=16 and gpu_type=A100 both do.

    Raises:
        CliError: no pair, or a key twice. Keys and values are checked where all such are.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, mark, text = pair.partition("=")
        if not key or not mark or key in found:
            raise CliError(f"--request {pair!r}: expected KEY=VALUE, each key once", EXIT_USAGE)
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def _selection(
    *,
    ids: tuple[str, ...],
    every: bool,
    queue: str | None,
    task: str | None,
    reason: str | None,
    exception: str | None,
    state: str,
    since: str | None,
    until: str | None,
    **_place: Any,
) -> Selection:
    from celeray.scheduler.errors import OperatorInputError
    from celeray.scheduler.letters.selecting import Selection

    chosen = letter_filter(queue, task, reason, since, until, exception=exception, state=state)
    selection = Selection(ids=ids or None, filter=None if chosen.empty else chosen, all=every)
    try:
        selection.check()
    except OperatorInputError as error:
        raise CliError("say which: IDs, or a filter, or --all", EXIT_USAGE) from error
    return selection


def _letters(place: Place) -> Letters:
    from celeray.scheduler.letters.store import Letters

    return Letters(place.store.client, place.store.keys)


def _edited(change: Callable[[], D]) -> D:
    from celeray.scheduler.errors import RequirementError

    try:
        return answered(change)
    except RequirementError as error:
        raise CliError(f"--request: {error}", EXIT_USAGE) from error


def _confirm(selection: Selection, settled: bool, run: Callable[[bool], Any], verb: str) -> None:
    """By a filter or of all, ask with the number that a dry run gives. On stderr, so that JSON stays JSON."""
    if settled or selection.ids is not None:
        return
    found = run(True)
    count = found.matched - found.skipped
    left = f" ({found.skipped} can't be)" if found.skipped else ""
    if count:
        click.confirm(f"{verb} {count} dead letters {selection}{left}?", abort=True, err=True)


def _report(done: Redriven | Discarded, count: int, what: str, output: str) -> None:
    if output == "json":
        print_json(done)
    else:
        click.echo(f"{count} of {done.matched} {what}")
        for item in done.skipped_letters[:SKIPPED_PRINTED]:
            click.echo(f"{line(item.id)}: {line(item.reason)}")
        if done.skipped > SKIPPED_PRINTED:
            click.echo(f"{done.skipped - SKIPPED_PRINTED} more were left")


def _show_edits(done: Redriven) -> None:
    for edit in done.edits[:EDITS_PRINTED]:
        changed = sorted(
            name
            for name in {*edit.before, *edit.after}
            if name not in edit.before or edit.before[name] != edit.after.get(name)
        )
        words = ", ".join(
            f"{name} {_value(edit.before, name)} -> {_value(edit.after, name)}" for name in changed
        )
        click.echo(f"{line(edit.id)}: {line(words) or 'asks for this already'}")


def _value(asked: Mapping[str, Any], name: str) -> str:
    return json.dumps(asked[name]) if name in asked else "unset"


def _exit(done: Redriven | Discarded) -> None:
    if done.skipped:
        click.get_current_context().exit(EXIT_FAILED)
