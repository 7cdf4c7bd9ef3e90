"""`celeray config show`: the settings in force, and where each comes from."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from celeray.cli.options import app_option, config_option, load_app
from celeray.cli.render import print_table
from celeray.scheduler.broker import masked
from celeray.scheduler.settings import CONF_PREFIX, Settings

SECRET = re.compile(r"pass(word|wd)?|secret|token|api_?key|credential|private", re.IGNORECASE)
MASK = "********"


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@app_option
@config_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show(app: Any | None, config_file: str | None, origin: bool, output: str, **_preload: Any) -> None:
    """Show every setting in force. Secrets are masked."""
    conf = load_app(app).conf if app is not None else {}
    settings = Settings.load(conf, config_file=config_file)
    values = {key: mask(key, value) for key, value in settings.model_dump(mode="json").items()}
    origins = origins_of(settings, conf, config_file)
    if output == "json":
        both = {key: {"value": value, "origin": origins[key]} for key, value in values.items()}
        click.echo(json.dumps(both if origin else values, indent=2))
        return
    rows = [(key, *([origins[key]] if origin else []), json.dumps(value)) for key, value in values.items()]
    print_table(("setting", *(["origin"] if origin else []), "value"), rows, empty="no settings")


def origins_of(settings: Settings, conf: Mapping[str, Any], config_file: str | None) -> dict[str, str]:
    """Where each value comes from: the variable, the file, the app's conf, or `default`."""
    path = Path(config_file or os.environ.get("CELERAY_CONFIG") or "celeray.toml")
    in_file = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    variables = {name.lower(): name for name in os.environ}
    return {key: _origin(key, variables, path, in_file, conf) for key in type(settings).model_fields}


def _origin(
    key: str, variables: Mapping[str, str], path: Path, in_file: Mapping[str, Any], conf: Mapping[str, Any]
) -> str:
    name = f"celeray_{key}"
    for lower, spelled in variables.items():
        if lower == name or lower.startswith(f"{name}__"):
            return f"environment {spelled}"
    if key in in_file:
        return f"file {path}"
    if f"{CONF_PREFIX}{key}" in conf:
        return f"app.conf.{CONF_PREFIX}{key}"
    return "default"


def mask(key: str, value: Any) -> Any:
    """The value with secrets masked: by the name of its key, and passwords in URLs.

    A file that holds secrets and a switch are named after them but are none.
    """
    if value is not None and SECRET.search(key) and not (isinstance(value, bool) or key.endswith("_file")):
        return MASK
    if isinstance(value, Mapping):
        # runtime_env.env_vars is where people put credentials, under any name.
        return {inner: MASK if key == "env_vars" else mask(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask("", item) for item in value]
    return masked(value) if isinstance(value, str) else value
