"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from celeray.scheduler.settings import Settings
    from celeray.scheduler.status_store import StatusStore
    from celeray.scheduler.topology import BrokerKind

F = TypeVar("F", bound=Callable[..., Any])
URL_VARIABLES = ("CELERY_BROKER_URL", "REDIS_URL")


def app_option(command: F) -> F:
    """`-A`; in `celery -A proj celeray ...` the outer one counts."""
    option = click.option("-A", "--app", help="The Celery app, as `celery -A` takes it.", callback=_outer_app)
    return option(command)


def config_option(command: F) -> F:
    option = click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False),
        help="celeray.toml. Default: CELERAY_CONFIG, else celeray.toml in the working folder.",
    )
    return option(command)


def output_option(command: F) -> F:
    choice = click.Choice(["table", "json"])
    option = click.option("-o", "--output", type=choice, default="table", show_default=True)
    return option(command)


def _outer_app(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
    if value is not None:
        return value
    return ctx.find_root().params.get("app") if ctx.parent is not None else None


def load_app(app: Any) -> Any:
    """The Celery app that `-A` names, imported as Celery itself does; an app is returned as it is.

    Raises:
        ConfigurationError: it can't be imported; names what is missing.
    """
    from celery.app.utils import find_app

    from celeray.scheduler.errors import ConfigurationError

    if not isinstance(app, str):
        return app
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return find_app(app)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"-A {app}: {error}") from error


def environment_url() -> str | None:
    """The Redis that the environment names for Celery."""
    return next((os.environ[name] for name in URL_VARIABLES if os.environ.get(name)), None)


@dataclass(frozen=True)
class Place:
    """Where the state is, and with what settings it is read."""

    settings: Settings
    store: StatusStore
    app: Any | None
    """The Celery app, if `-A` was given."""
    broker_kind: BrokerKind
    """Of the app; a URL alone is always one of Redis."""


def open_place(
    app: Any | None,
    redis_url: str | None,
    *,
    config_file: str | None = None,
    key_prefix: str | None = None,
    **flags: Any,
) -> Place:
    """The broker's Redis by `-A`, else by URL; imports no user code without `-A`.

    Raises:
        ConfigurationError: neither is given, the app can't be loaded, or its broker is no Redis.
    """
    from celeray.scheduler.broker import broker_keys, broker_redis, redis_from_url
    from celeray.scheduler.errors import ConfigurationError
    from celeray.scheduler.keys import Keys
    from celeray.scheduler.settings import Settings
    from celeray.scheduler.status_store import StatusStore
    from celeray.scheduler.topology import BrokerKind, kind_of_conf

    loaded = load_app(app) if app is not None else None
    if loaded is None and not redis_url:
        raise ConfigurationError("no Redis: give -A, --redis-url, CELERY_BROKER_URL or REDIS_URL")
    settings = Settings.load(loaded.conf if loaded else None, config_file=config_file, **flags)
    keys = broker_keys(loaded) if loaded and key_prefix is None else Keys(prefix=key_prefix or "")
    client = redis_from_url(redis_url) if redis_url else broker_redis(loaded)
    store = StatusStore(
        client, keys=keys, interval_s=settings.status_interval_s, result_ttl_s=settings.result_ttl_s
    )
    kind = kind_of_conf(loaded.conf) if loaded is not None and not redis_url else BrokerKind.REDIS
    return Place(settings=settings, store=store, app=loaded, broker_kind=kind)


def change_options(command: F) -> F:
    """Of a command that changes something: where to write, who says so, and how to print."""
    for option in (
        output_option,
        config_option,
        click.option("--key-prefix", help="The broker's global_keyprefix, with --redis-url."),
        click.option("--redis-url", help="The broker's Redis, if not -A. Also CELERY_BROKER_URL, REDIS_URL."),
        app_option,
        click.option("--by", help="Who says so. Default: user@host."),
    ):
        command = option(command)
    return command
