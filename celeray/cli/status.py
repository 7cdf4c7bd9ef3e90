"""`celeray status`: the cluster on one screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from celeray.cli.lazy import EXIT_FAILED
from celeray.cli.options import app_option, config_option, open_place, output_option
from celeray.cli.render import gib, paused_text, print_json, seconds, styled
from celeray.cli.sources import RedisSource, RestSource, Source, read_token
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.status import BridgeSummary, ClusterStatus, KeeperSummary

DEFAULT_URL = "http://127.0.0.1:8000"
F = TypeVar("F", bound=Callable[..., Any])


def source_options(command: F) -> F:
    """Where to read: `--url`, or `--redis-url` or `-A`."""
    for option in (
        config_option,
        click.option(
            "--token-file",
            envvar="CELERAY_TOKEN_FILE",
            type=click.Path(dir_okay=False),
            help="File with a token, where the API at --url asks for one to read.",
        ),
        click.option("--key-prefix", help="The broker's global_keyprefix, with --redis-url."),
        click.option("--redis-url", help="Read the broker's Redis instead of the API."),
        click.option(
            "--url", envvar="CELERAY_API_URL", default=DEFAULT_URL, show_default=True, help="The API to read."
        ),
        app_option,
    ):
        command = option(command)
    return command


def open_source(
    *,
    url: str,
    redis_url: str | None,
    app: Any | None,
    key_prefix: str | None,
    config_file: str | None,
    token_file: str | None = None,
    **_preload: Any,
) -> Source:
    """The source that the options name. `-A` and `--redis-url` win over the API."""
    if app is None and redis_url is None:
        return RestSource(url, read_token(token_file) if token_file else None)
    from importlib.metadata import version

    place = open_place(app, redis_url, key_prefix=key_prefix, config_file=config_file)
    return RedisSource(place, version("celeray"), results_url=redis_url)


@click.command()
@source_options
@output_option
@click.pass_context
def status(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Show the cluster on one screen. Exit code 0: good, 1: degraded, 69: unreachable."""
    found = open_source(**options).status()
    if output == "json":
        print_json(found)
    else:
        for line in lines(found):
            click.echo(line)
    ctx.exit(0 if found.state == "ok" else EXIT_FAILED)


def lines(found: ClusterStatus) -> list[str]:
    """The screen."""
    ray = "connected" if found.ray_connected else "not connected"
    shown = [
        f"celeray {found.version}: {styled(found.state)}   Redis {'ok' if found.redis_ok else 'down'}, Ray {ray}",
        f"tasks     {found.queued} queued, {found.scheduled} scheduled for later, "
        f"{found.waiting} waiting for a device, {found.running} running, "
        f"{found.unacked} not acknowledged, {found.dead_letters} dead letters",
        f"devices   {found.devices_healthy} of {found.devices} healthy on {found.nodes} node(s), "
        f"{found.executors} executor(s)",
        f"VRAM      {gib(found.vram_schedulable_mib)} of {gib(found.vram_total_mib)} GiB schedulable",
        *(_elastic(item, time.time()) for item in found.elastic),
        *(_bridge(item) for item in found.bridges),
        *(_keeper(item) for item in found.keepers),
        *(f"paused    {name} {paused_text(pause)}" for name, pause in found.paused.items()),
        *(f"drained   {name} {paused_text(drain)}" for name, drain in found.drained.items()),
    ]
    return shown + [f"problem   {text}" for text in found.problems]


def _elastic(item: ElasticStatus, now: float) -> str:
    since = "" if item.asked_since is None else f" (the first {seconds(now - item.asked_since)} ago)"
    return (
        f"elastic   {item.type}: {item.there} there of at most {item.max}, {item.asked} asked for{since}, "
        f"{item.leaving} leaving, {item.released} given back"
    )


def _bridge(item: BridgeSummary) -> str:
    if not item.up:
        return f"bridge    {item.hostname} {styled('down')}, last seen {seconds(item.age_s)} ago"
    ray = item.cluster_address if item.cluster_up else "no Ray"
    held = f"{item.waiting} waiting, {item.running} running of {item.window}"
    return f"bridge    {item.hostname} (pid {item.pid}) on {ray}: {held}; updated {seconds(item.age_s)} ago"


def _keeper(item: KeeperSummary) -> str:
    if not item.up:
        return f"keeper    {item.name} {styled('down')}, last round {seconds(item.age_s)} ago"
    return f"keeper    {item.name}: last round {seconds(item.age_s)} ago"
