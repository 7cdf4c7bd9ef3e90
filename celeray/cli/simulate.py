"""`celeray simulate`: what a cluster would do with a recorded or a public trace. Reads files only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celeray.cli.lazy import EXIT_FAILED, EXIT_USAGE, CliError
from celeray.cli.line_chart import Chart, svg_of
from celeray.cli.options import output_option
from celeray.cli.render import known, print_table, seconds

if TYPE_CHECKING:
    from celeray.scheduler.simulation.comparing import Comparison

PATH = click.Path(dir_okay=False, path_type=Path)
FIRST_SEED = 1_000
"""As those of the reported figures; parameters were chosen by smaller ones."""
PLOTTED_FROM_PCT = 80
"""Below it every policy gives each task a place."""
INFLATION_COLUMNS = (
    "policy",
    "90 %",
    "95 %",
    "100 %",
    "120 %",
    "130 %",
    "idle gpus",
    "fragment",
    "failed",
    "us a task",
)
ONLINE_COLUMNS = (
    *("policy", "wait mean", "p95", "p99", "multi-device mean", "slowdown", "vram in use"),
    *("never fit", "us a task"),
)


@dataclass(frozen=True)
class Asked:
    """The options that choose the experiment."""

    load: float | None
    inflation: bool
    tasks: int
    reservation: bool


@dataclass(frozen=True)
class Shown:
    """An experiment's results."""

    experiment: str
    policies: Mapping[str, dict[str, Any]]
    """Figures by policy; `curve` among them."""
    left_out: int = 0
    """Tasks of the trace that the experiment could not use."""


@click.command()
@click.option(
    "--trace", required=True, type=PATH, help="Tasks: `celeray record`'s JSON lines, or the public CSV."
)
@click.option("--nodes", required=True, type=PATH, help="The cluster: a JSON list, or the public CSV.")
@click.option(
    "--policy", "policies", multiple=True, default=("default",), show_default=True, help="May be repeated."
)
@click.option("--inflation", is_flag=True, help="Fill the cluster to 130 %; no task ends.")
@click.option(
    "--load",
    type=click.FloatRange(0, 10, min_open=True),
    help="Draw tasks of the trace for this load, 1 being all VRAM. Default: replay the trace.",
)
@click.option(
    "--tasks", type=click.IntRange(1), default=12_000, show_default=True, help="How many, with --load."
)
@click.option("--no-reservation", is_flag=True, help="Keep no room for the first task that does not fit.")
@click.option("--vram-only", is_flag=True, help="Ignore the CPUs and the host memory that tasks ask for.")
@click.option(
    "--service-priorities", is_flag=True, help="Priority by the trace's class of service: LS 7, BE 3."
)
@click.option(
    "--device-mib",
    type=click.IntRange(1_000),
    default=16_000,
    show_default=True,
    help="VRAM of a whole device in the public CSV files, which have shares only.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=FIRST_SEED, show_default=True, help="Of the first run."
)
@click.option(
    "--repetitions", type=click.IntRange(1), default=1, show_default=True, help="Runs; seeds follow on."
)
@click.option("--plot", type=PATH, help="Write the curves to this .svg file.")
@output_option
def simulate(
    trace: Path,
    nodes: Path,
    policies: tuple[str, ...],
    *,
    inflation: bool,
    load: float | None,
    tasks: int,
    no_reservation: bool,
    plot: Path | None,
    output: str,
    **reading: Any,
) -> None:
    """Place a trace's tasks on a cluster with celeray's own placement code: how well they fit, or how long they wait.

    By default the trace is replayed as it was recorded. docs/simulation.md has the formats and the figures.
    """
    if inflation and load is not None:
        raise CliError("--inflation and --load are two experiments: give one of them", EXIT_USAGE)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise CliError(f"--plot={plot}: expected a file that ends in .svg", EXIT_USAGE)
    asked = Asked(load=load, inflation=inflation, tasks=tasks, reservation=not no_reservation)
    wanted = _comparison(trace, nodes, policies, **reading)
    shown = _run(wanted, asked)
    if plot is not None:
        _write(plot, svg_of(_chart(shown)))
    if output == "json":
        click.echo(json.dumps(_document(wanted, trace, nodes, shown), indent=2))
    else:
        _print(shown)


def _comparison(
    trace: Path,
    nodes: Path,
    policies: Sequence[str],
    *,
    device_mib: int,
    vram_only: bool,
    service_priorities: bool,
    seed: int,
    repetitions: int,
) -> Comparison:
    from celeray.scheduler.simulation import trace as traces
    from celeray.scheduler.simulation.comparing import Comparison
    from celeray.scheduler.simulation.nodes import read_nodes

    tasks = traces.read_trace(trace, device_mib=device_mib)
    if vram_only:
        tasks = traces.without_cpus(tasks)
    if service_priorities:
        tasks = traces.with_service_priorities(tasks)
    return Comparison(
        tasks=tasks,
        nodes=read_nodes(nodes, device_mib=device_mib),
        policies=tuple(dict.fromkeys(policies)),
        seeds=range(seed, seed + repetitions),
        tell=lambda line: click.echo(line, err=True),
    )


def _run(wanted: Comparison, asked: Asked) -> Shown:
    from celeray.scheduler.placement.policy import Order
    from celeray.scheduler.simulation import comparing, summary
    from celeray.scheduler.simulation.workload import recorded

    if asked.inflation:
        filled = comparing.compare_inflation(wanted)
        figures = {
            name: {**summary.inflation_summary(runs), "curve": summary.inflation_curve(runs)}
            for name, runs in filled.items()
        }
        return Shown("inflation", figures)
    order = Order(reserve=asked.reservation)
    if asked.load is not None:
        waited = comparing.compare_load(wanted, load=asked.load, count=asked.tasks, order=order)
        left_out = 0
    else:
        waited = comparing.compare_replay(wanted, order=order)
        left_out = len(wanted.tasks) - len(recorded(wanted.tasks))
    figures = {
        name: {**summary.online_summary(runs), "curve": summary.wait_curve(runs)}
        for name, runs in waited.items()
    }
    return Shown("replay" if asked.load is None else f"load {asked.load:g}", figures, left_out)


def _document(wanted: Comparison, trace: Path, nodes: Path, shown: Shown) -> dict[str, Any]:
    from celeray.scheduler.simulation.policies import prior_sources

    return {
        "experiment": shown.experiment,
        "trace": str(trace),
        "nodes": str(nodes),
        "tasks": len(wanted.tasks),
        "left_out": shown.left_out,
        "gpus": sum(len(node.devices) for node in wanted.nodes),
        "seeds": list(wanted.seeds),
        "prior": {
            name: text for name, text in prior_sources(wanted.tasks).items() if name in wanted.policies
        },
        "policies": dict(shown.policies),
    }


def _print(shown: Shown) -> None:
    if shown.experiment == "inflation":
        rows = [_inflation_row(name, found) for name, found in shown.policies.items()]
        print_table(INFLATION_COLUMNS, rows, empty="no policy")
        click.echo("allocated, % of all VRAM, by what was asked for; the other figures at 100 % asked for")
        return
    rows = [_online_row(name, found) for name, found in shown.policies.items()]
    print_table(ONLINE_COLUMNS, rows, empty="no policy")
    if shown.left_out:
        click.echo(f"left out, since their arrival or run time is not known: {shown.left_out} tasks")


def _inflation_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        *(f"{found[f'allocation_at_{pct}_pct']:.2f}" for pct in (90, 95, 100, 120, 130)),
        f"{found['idle_gpus_at_100']:.1f}",
        f"{found['fragment_pct_at_100']:.2f} %",
        f"{found['failed_tasks_at_100']:.0f}",
        f"{found['microseconds_a_decision']:.0f}",
    )


def _online_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        seconds(found["wait_mean_s"]),
        seconds(found["wait_p95_s"]),
        seconds(found["wait_p99_s"]),
        seconds(found["multi_device_wait_mean_s"]),
        known(found["slowdown"]),
        known(found["utilisation_pct"], " %"),
        f"{found['never_fit'] + found['unplaced']:.0f}",
        known(found["microseconds_a_decision"]),
    )


def _chart(shown: Shown) -> Chart:
    curves = {name: found["curve"] for name, found in shown.policies.items()}
    if shown.experiment == "inflation":
        lines = {
            name: [(float(pct), y) for pct, y in enumerate(curve, start=1) if pct >= PLOTTED_FROM_PCT]
            for name, curve in curves.items()
        }
        return Chart(
            "Allocation as the cluster fills", "asked for, % of all VRAM", "allocated, % of all VRAM", lines
        )
    lines = {name: [(float(pct), y) for pct, y in enumerate(curve)] for name, curve in curves.items()}
    return Chart(f"Waits, {shown.experiment}", "% of the tasks", "they wait at most, seconds", lines)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise CliError(f"--plot={path}: {error.strerror}", EXIT_FAILED) from error
