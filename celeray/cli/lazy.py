"""A click group whose commands are imported when they are used, and whose errors become exit codes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
"""EX_UNAVAILABLE of sysexits.h, as `celery inspect` ends when nobody replies."""


class CliError(click.ClickException):
    """A sentence for the user, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click declares the default on the class


class LazyGroup(click.Group):
    """Commands by name, each as `module:object`."""

    def __init__(self, *args: Any, commands_by_name: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(commands_by_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self._lazy[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        # Here and not above: `celery` imports this module at every call.
        from celeray.scheduler.errors import CelerayError, ConfigurationError

        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise CliError(str(error), EXIT_USAGE) from error
        except CelerayError as error:
            raise CliError(str(error), EXIT_FAILED) from error
