"""`celeray api`: serves REST and /metrics."""

from __future__ import annotations

from typing import Any

import click

from celeray.cli.options import app_option, config_option, environment_url, open_place


@click.command()
@app_option
@click.option("--redis-url", help="Where the broker is, if not -A. Also CELERY_BROKER_URL, REDIS_URL.")
@click.option(
    "--result-backend", envvar="CELERY_RESULT_BACKEND", help="Default: the app's, else the same Redis."
)
@click.option("--key-prefix", help="The broker's global_keyprefix, if not -A.")
@click.option("--host", help="Address to listen on. Default: api_host of the settings, 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="0: a free one. Default: api_port of the settings, 8000."
)
@click.option(
    "--allow-remote",
    is_flag=True,
    default=None,
    help="Listen on more than loopback; every request then needs a token.",
)
@config_option
def api(
    app: Any | None,
    redis_url: str | None,
    result_backend: str | None,
    key_prefix: str | None,
    host: str | None,
    port: int | None,
    allow_remote: bool | None,
    config_file: str | None,
    **_preload: Any,
) -> None:
    """Serve REST, /metrics, /healthz and /readyz from what Redis holds.

    Needs no Ray, and without -A none of your code. What changes something needs a token: see `celeray token`.
    """
    from celeray.api.access import check_start
    from celeray.api.app import create_app
    from celeray.api.results import ResultReader
    from celeray.api.serve import listen, serve
    from celeray.api.token_file import TokenFile

    url = redis_url or (None if app else environment_url())
    place = open_place(
        app,
        url,
        config_file=config_file,
        key_prefix=key_prefix,
        api_host=host,
        api_port=port,
        api_allow_remote=allow_remote,
    )
    settings = place.settings
    check_start(settings)
    if place.app is not None and not result_backend:
        results = ResultReader(place.app)
    else:
        results = ResultReader.from_url(result_backend or url or "")
    listener = listen(settings.api_host, settings.api_port)
    click.echo(f"API on http://{settings.api_host}:{listener.getsockname()[1]}")
    tokens = TokenFile(settings.tokens_file)
    click.echo(
        f"{len(tokens.tokens()) or 'no'} token(s) in {tokens.path.absolute()}; without one it only reads"
    )
    serve(create_app(settings, place.store, results, place.broker_kind), listener)
