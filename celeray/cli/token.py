"""`celeray token`: makes, lists and revokes the API's tokens. A running API sees the change with its next request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ConfigDict

from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, Token, mint
from celeray.cli.lazy import CliError
from celeray.cli.options import app_option, config_option, load_app, output_option
from celeray.cli.render import moment, print_json, print_table
from celeray.scheduler.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
DAY_S = 86_400.0
DAYS_MAX = 366


class ShownToken(BaseModel):
    """A token without anything that would help to use it."""

    model_config = ConfigDict(frozen=True)

    id: str
    role: Role
    created_at: float
    expires_at: float
    expired: bool
    note: str


class TokenList(BaseModel):
    model_config = ConfigDict(frozen=True)

    tokens: tuple[ShownToken, ...]


def file_options(command: F) -> F:
    """Which file: that of the settings, or another."""
    for option in (
        config_option,
        click.option(
            "--file",
            "path",
            type=click.Path(dir_okay=False),
            help="The file of the tokens. Default: api_tokens_file of the settings.",
        ),
        app_option,
    ):
        command = option(command)
    return command


@click.group()
def token() -> None:
    """Make, list and revoke the API's tokens.

    To replace a token, create another one, hand it out, then revoke the old one: both are valid in between.
    """


@token.command()
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="Each may do what those before it may.",
)
@click.option(
    "--days", type=click.IntRange(1, DAYS_MAX), default=90, show_default=True, help="Until it expires."
)
@click.option("--note", default="", help="Whose it is, or what for.")
@file_options
def create(role: str, days: int, note: str, **which: Any) -> None:
    """Make a token and print it, once: only its SHA-256 is kept."""
    if len(note) > 200 or not (note.isprintable()):
        raise click.BadParameter("at most 200 printable characters on one line", param_hint="--note")
    file = open_file(**which)
    made, text = mint(Role(role), now=time.time(), valid_s=days * DAY_S, note=note)
    file.add(made)
    click.echo(
        f"token {made.id} with role {role}, until {moment(made.expires_at)}, in {file.path}:", err=True
    )
    click.echo(text)


@token.command("list")
@file_options
@output_option
def list_tokens(output: str, **which: Any) -> None:
    """List ids, roles and expiry. No secret is kept, so none can be shown."""
    now = time.time()
    shown = tuple(_shown(item, now) for item in open_file(**which).tokens())
    if output == "json":
        print_json(TokenList(tokens=shown))
        return
    rows = (
        (item.id, item.role, moment(item.created_at), moment(item.expires_at), _state(item), item.note or "-")
        for item in shown
    )
    print_table(("id", "role", "created", "expires", "state", "note"), rows, empty="no tokens")


@token.command()
@click.argument("token_id")
@file_options
def revoke(token_id: str, **which: Any) -> None:
    """Make the token with this id worthless from now on."""
    if open_file(**which).remove(token_id) is None:
        raise CliError(f"no token {token_id!r}; `celeray token list` shows those that there are", 1)
    click.echo(f"token {token_id} is revoked")


def open_file(*, app: Any | None, path: str | None, config_file: str | None, **_preload: Any) -> TokenFile:
    """The file that the options name."""
    conf = load_app(app).conf if app is not None else None
    return TokenFile(Settings.load(conf, config_file=config_file, api_tokens_file=path).tokens_file)


def _shown(item: Token, now: float) -> ShownToken:
    return ShownToken(expired=item.expired(now), **item.model_dump(exclude={"sha256"}))


def _state(item: ShownToken) -> str:
    return "expired" if item.expired else "valid"
