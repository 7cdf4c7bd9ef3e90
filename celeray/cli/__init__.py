"""The `celeray` command, and the same commands as `celery -A proj celeray ...`.

Every `celery` call imports this module, so it imports nothing but click; each command's module comes when it is run.
"""

from __future__ import annotations

import click

from celeray.cli.lazy import LazyGroup

COMMANDS = {
    "up": "celeray.cli.up:up",
    "bridge": "celeray.cli.bridge:bridge",
    "keeper": "celeray.cli.keeper:keeper",
    "api": "celeray.cli.api:api",
    "node": "celeray.cli.node:node",
    "status": "celeray.cli.status:status",
    "get": "celeray.cli.get:get",
    "describe": "celeray.cli.describe:describe",
    "explain": "celeray.cli.explain:explain",
    "pause": "celeray.cli.pause:pause",
    "resume": "celeray.cli.pause:resume",
    "drain": "celeray.cli.drain:drain",
    "undrain": "celeray.cli.drain:undrain",
    "dead-letters": "celeray.cli.dead_letters:dead_letters",
    "learned": "celeray.cli.learned:learned",
    "token": "celeray.cli.token:token",
    "config": "celeray.cli.config:config",
    "record": "celeray.cli.record:record",
    "simulate": "celeray.cli.simulate:simulate",
    "doctor": "celeray.cli.doctor:doctor",
}

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, context_settings=CONTEXT)
@click.version_option(package_name="celeray")
def main() -> None:
    """A GPU cluster behind Celery.

    Exit codes: 0 good, 1 degraded or failed, 2 usage, 69 unreachable.
    """


@click.group("celeray", cls=LazyGroup, commands_by_name=COMMANDS, context_settings=CONTEXT)
def celery_plugin(**_preload_options: object) -> None:
    """celeray's commands, for the app of `celery -A`."""
