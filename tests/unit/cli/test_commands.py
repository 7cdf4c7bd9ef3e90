"""The command group: what it lists, how light it is, and which exit codes errors become."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from celeray.cli import COMMANDS, main
from celeray.cli.lazy import EXIT_USAGE, LazyGroup
from celeray.scheduler.errors import ClusterError, ConfigurationError

HEAVY = ("celery", "ray", "fastapi", "redis", "pydantic", "rich")


def test_every_command_is_there_and_has_help() -> None:
    runner = CliRunner()
    listed = runner.invoke(main, ["--help"])
    assert listed.exit_code == 0
    for name in COMMANDS:
        assert name in listed.output
        assert runner.invoke(main, [name, "--help"]).exit_code == 0, name


def test_importing_the_plugin_imports_only_click() -> None:
    """Every `celery` call imports it."""
    code = f"import sys, celeray.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celeray.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert "0.1.0" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["nothing"]).exit_code == EXIT_USAGE


@pytest.mark.parametrize(("error", "code"), [(ConfigurationError("no x"), 2), (ClusterError("no y"), 1)])
def test_errors_of_ours_are_one_sentence_and_an_exit_code(error: Exception, code: int) -> None:
    @click.group(cls=LazyGroup, commands_by_name={})
    def group() -> None:
        """For the test."""

    @group.command()
    def fails() -> None:
        raise error

    result = CliRunner().invoke(group, ["fails"])
    assert (result.exit_code, result.output) == (code, f"Error: {error}\n")
