"""`celeray record`: writes what ran, for `celeray simulate`. Reads Redis only."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from celeray.cli.changing import answered, place_of_change
from celeray.cli.keeper import STOPS, told_to_stop
from celeray.cli.lazy import EXIT_FAILED, EXIT_USAGE, CliError
from celeray.cli.options import Place, app_option, config_option

if TYPE_CHECKING:
    from celeray.scheduler.simulation.recording import HistoryFollower
    from celeray.scheduler.status_store import StatusStore

PATH = click.Path(dir_okay=False, path_type=Path)
INTERVAL_S = 2.0
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _span(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Seconds of 90s, 30m, 2h, 1d or 0."""
    if text is None or text == "0":
        return None if text is None else 0
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not (number.isascii() and number.isdigit()) or len(text) > 9:
        raise click.BadParameter(f"{text!r}: expected 90s, 30m, 2h, 1d, or 0")
    return int(number) * UNITS_S[unit]


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--for",
    "span_s",
    callback=_span,
    metavar="DURATION",
    help="Follow so long: 90s, 30m, 2h, 1d; 0: only what Redis has now. Default: until SIGTERM or Ctrl-C.",
)
@click.option("--append", is_flag=True, help="Go on with FILE; runs that it has are not written again.")
@click.option(
    "--nodes", type=PATH, help="Write the cluster as it is now to this JSON file, for simulate --nodes."
)
@click.option("--key-prefix", help="The broker's global_keyprefix, with --redis-url.")
@click.option("--redis-url", help="The broker's Redis, if not -A. Also CELERY_BROKER_URL, REDIS_URL.")
@config_option
@app_option
def record(
    file: Path,
    *,
    span_s: int | None,
    append: bool,
    nodes: Path | None,
    **place: Any,
) -> None:
    """Write the runs of all bridges to FILE, one JSON object a line: what Redis still has, and then each as it ends.

    docs/simulation.md has the format, and what is left out.
    """
    from celeray.scheduler.simulation.recording import HistoryFollower

    # Blocked, and taken where the command sleeps: a line is never half written.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        found = place_of_change(**place)
        known = _known(file, append=append)
        if nodes is not None:
            _write_nodes(found, nodes)
        with _open(file) as out:
            lines = _follow(HistoryFollower(found.store, known=known), found.store, out, span_s)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    click.echo(f"{lines} runs in {file}", err=True)


def _known(file: Path, *, append: bool) -> set[tuple[str, float]]:
    if not file.exists() or file.stat().st_size == 0:
        return set()
    if not append:
        raise CliError(f"{file} exists: --append goes on with it", EXIT_USAGE)
    from celeray.scheduler.simulation.history import read_history

    return {(task.name, task.arrived_s or 0.0) for task in read_history(file)}


def _open(file: Path) -> TextIO:
    try:
        return file.open("a", encoding="utf-8")
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", EXIT_FAILED) from error


def _write_nodes(place: Place, file: Path) -> None:
    from celeray.scheduler import overview
    from celeray.scheduler.simulation.recording import cluster_of

    seen = answered(lambda: overview.read_overview(place.store, place.settings, time.time()))
    document = cluster_of(overview.nodes(seen), overview.devices(seen))
    try:
        file.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise CliError(f"--nodes={file}: {error.strerror}", EXIT_FAILED) from error


def _follow(follower: HistoryFollower, store: StatusStore, out: TextIO, span_s: int | None) -> int:
    """Write until the time is over or a signal comes; returns the number of lines."""
    from celeray.scheduler.simulation.recording import skipped_between, skipped_by_bridge

    before = skipped_by_bridge(answered(store.read_bridges))
    end_at = math.inf if span_s is None else time.monotonic() + span_s
    written = _write(answered(follower.run_once), out)
    while (left := end_at - time.monotonic()) > 0 and not told_to_stop(min(INTERVAL_S, left)):
        written += _look(follower, out)
    written += _look(follower, out)
    after = skipped_by_bridge(answered(store.read_bridges))
    if skipped := skipped_between(before, after):
        click.echo(f"{skipped} short runs are not in it: bridges wrote no record of them", err=True)
    return written


def _look(follower: HistoryFollower, out: TextIO) -> int:
    """As `run_once`. A Redis that answered before may be away: what it has when it is back is written then."""
    from redis import RedisError

    try:
        return _write(follower.run_once(), out)
    except RedisError as error:
        click.echo(f"Redis does not answer: {error}", err=True)
        return 0


def _write(lines: list[str], out: TextIO) -> int:
    out.writelines(f"{line}\n" for line in lines)
    out.flush()
    return len(lines)
