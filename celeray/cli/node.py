"""`celeray node start`: `ray start` with what the machine's GPUs are, as labels and resources."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

LABEL_GPU = "celeray.gpu"
LABEL_VRAM = "celeray.vram-mib"
RESOURCE_VRAM = "vram_mib"
"""Whole MiB over all devices: a demand signal for Ray's autoscaler, never our book."""
LABEL_MAX_CHARS = 63


@click.group()
def node() -> None:
    """Join this machine to a Ray cluster."""


@node.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--simulate-gpus", envvar="CELERAY_SIMULATE_GPUS", help="Simulated devices, for instance 2x24GiB."
)
@click.option("--dry-run", is_flag=True, help="Print the command instead of running it.")
@click.argument("ray_args", nargs=-1, type=click.UNPROCESSED)
def start(simulate_gpus: str | None, dry_run: bool, ray_args: tuple[str, ...]) -> None:
    """Run `ray start` with the node's GPUs as labels and resources. What follows `--` goes to `ray start`.

    Ray's token authentication is switched on unless RAY_AUTH_MODE says otherwise. The environment is passed on.
    """
    from celeray.actors.ray_session import ensure_token
    from celeray.actors.simulated import SPEC_VARIABLE

    devices = read_devices(simulate_gpus)
    command = [ray_program(), "start", *with_devices(ray_args, devices, count=simulate_gpus is not None)]
    if dry_run:
        click.echo(" ".join(command))
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if simulate_gpus:
        os.environ[SPEC_VARIABLE] = simulate_gpus
    if "--head" in ray_args and os.environ["RAY_AUTH_MODE"] == "token":
        ensure_token()
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - this process becomes `ray start`, with our own arguments


def read_devices(simulate_gpus: str | None) -> list[tuple[str, int]]:
    """Name and MiB of each device; simulated ones where a specification is given.

    Raises:
        ConfigurationError: the specification can't be read.
    """
    from celeray.actors.nvml import NvmlReader
    from celeray.actors.simulated import parse_spec

    if simulate_gpus:
        return list(parse_spec(simulate_gpus))
    readings = NvmlReader().read()
    return [(reading.name or "unknown", reading.total_mib or 0) for reading in readings]


def with_devices(args: Sequence[str], devices: Sequence[tuple[str, int]], *, count: bool) -> list[str]:
    """The arguments with the devices merged into `--labels` and `--resources`; what the user gave wins.

    Args:
        count: also pass `--num-gpus`, which Ray cannot find out for simulated devices.
    """
    if not devices:
        return list(args)
    names, totals = sorted({name for name, _ in devices}), [total for _, total in devices]
    found = {LABEL_GPU: label_value("_".join(names)), LABEL_VRAM: str(min(totals))}
    rest, labels, resources = _take(args)
    merged = found | _parse_labels(labels)
    rest += ["--labels", ",".join(f"{key}={value}" for key, value in merged.items())]
    rest += ["--resources", json.dumps({RESOURCE_VRAM: sum(totals)} | json.loads(resources or "{}"))]
    if count and not any(arg.startswith("--num-gpus") for arg in args):
        rest += ["--num-gpus", str(len(devices))]
    return rest


def label_value(text: str) -> str:
    """The text as Ray allows it in a label: at most 63 of letters, digits, `-`, `_` and `.`, no sign at the ends."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:LABEL_MAX_CHARS].strip("-_.")


def ray_program() -> str:
    """Path of the `ray` command beside this interpreter, else on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    from celeray.scheduler.errors import ConfigurationError

    beside = Path(sys.executable).with_name("ray")
    found = str(beside) if beside.exists() else shutil.which("ray")
    if not found:
        raise ConfigurationError("no `ray` command beside this Python or on PATH")
    return found


def _take(args: Sequence[str]) -> tuple[list[str], str, str]:
    """The arguments without `--labels` and `--resources`, and the values of these two."""
    rest: list[str] = []
    values = {"--labels": "", "--resources": ""}
    given = iter(args)
    for arg in given:
        name, equals, value = arg.partition("=")
        if name in values:
            values[name] = value if equals else next(given, "")
        else:
            rest.append(arg)
    return rest, values["--labels"], values["--resources"]


def _parse_labels(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (item.partition("=") for item in text.split(",") if item)}
