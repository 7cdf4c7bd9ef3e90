"""`python -m benchmarks`: one JSON object on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import batch, cpu_queue, cycle, placement, routing, urgent
from benchmarks.comparison import Plan, compare
from benchmarks.machine import describe_machine
from benchmarks.sides import TRANSPORTS, sides
from celeray.scheduler.embedded_redis import EmbeddedRedis

DEFAULT_MEASURES = ("throughput", "latency", "routing", "cpu_queue", "urgent", "batch")
MEASURES = (*DEFAULT_MEASURES, "cycle", "placement")
"""Placement by wish only: it says nothing of this machine, and something with a real trace only. A cycle's cost, since
it needs a machine that does nothing else."""
REPETITIONS = 3


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=MEASURES, help="may be repeated (default: all but the last two)"
    )
    parser.add_argument(
        "--side", action="append", choices=tuple(sides()), help="may be repeated (default: all)"
    )
    parser.add_argument(
        "--transport", choices=TRANSPORTS, default="leased", help="of the bridge (default: leased)"
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument(
        "--quick", action="store_true", help="one short repetition: shows that it works, no figure"
    )
    parser.add_argument("--log-dir", type=Path, help="keep the workers' logs here")
    cycle.add_arguments(parser)
    placement.add_arguments(parser)
    options = parser.parse_args(arguments)
    for name in ("cycle", "placement"):
        if getattr(options, name):
            options.only = [name]
    if options.plot and "cycle" not in (options.only or ()):
        parser.error("argument --plot: only with --cycle")
    if options.repetitions < 1:
        parser.error(f"argument --repetitions: {options.repetitions}: at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.only == ["placement"]:
        print(json.dumps(placement.measure(placement.experiment_of(options)), indent=2))
        return 0
    if options.only == ["cycle"]:
        print(json.dumps(_measure_cycle(options), indent=2))
        return 0
    with tempfile.TemporaryDirectory(prefix="celeray-bench-") as folder:
        logs = options.log_dir or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        with EmbeddedRedis(Path(folder) / "redis") as server:
            report = run(options, server, logs)
    print(json.dumps(report, indent=2))
    return 0


def run(options: argparse.Namespace, server: EmbeddedRedis, logs: Path) -> dict[str, Any]:
    """What was asked for, as the printed object."""
    # Celery's own variables: this process, the workers and their children all read them.
    os.environ["CELERY_BROKER_URL"] = server.url
    os.environ["CELERY_RESULT_BACKEND"] = f"redis://127.0.0.1:{server.port}/1"
    wanted = set(options.only or DEFAULT_MEASURES)
    report: dict[str, Any] = {"machine": describe_machine(server.url)}
    if wanted & {"throughput", "latency"}:
        chosen = options.side or list(sides())
        plan = Plan(
            sides=[found for name, found in sides(options.transport).items() if name in chosen],
            repetitions=1 if options.quick else options.repetitions,
            throughput="throughput" in wanted,
            latency="latency" in wanted,
            quick=options.quick,
            log_directory=logs,
        )
        report |= compare(plan)
    if "routing" in wanted:
        measured = routing.measure()
        report["routing_ms"] = {name: round(measured[f"{name}_s"] * 1e3, 4) for name in ("p50", "p95")}
    if "cpu_queue" in wanted:
        repetitions = 1 if options.quick else options.repetitions
        report["cpu_queue"] = cpu_queue.measure(repetitions, logs, quick=options.quick)
    if "urgent" in wanted:
        report["urgent_ms"] = urgent.measure(logs, quick=options.quick)
    if "batch" in wanted:
        short = {"messages": batch.QUICK_MESSAGES, "repetitions": 1} if options.quick else {}
        report["batch"] = batch.measure(server.url, os.environ["CELERY_RESULT_BACKEND"], **short)
    if "cycle" in wanted:
        report |= _measure_cycle(options)
    if "placement" in wanted:
        report |= placement.measure(placement.experiment_of(options))
    return report


def _measure_cycle(options: argparse.Namespace) -> dict[str, Any]:
    measured = cycle.measure(repetitions=1 if options.quick else cycle.REPETITIONS)
    if options.plot:
        options.plot.write_text(cycle.plot(measured))
    return {"cycle": measured}


if __name__ == "__main__":
    sys.exit(main())
