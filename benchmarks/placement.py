"""How well placement fills a cluster, by the simulator that users have (docs/simulation.md): policies on a trace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from celeray.scheduler.placement.policy import Order
from celeray.scheduler.simulation.comparing import Comparison, compare_inflation, compare_load
from celeray.scheduler.simulation.nodes import DeviceSpec, NodeSpec, read_nodes
from celeray.scheduler.simulation.policies import POLICIES, REPORTING_SEEDS, TUNING_SEEDS, prior_sources
from celeray.scheduler.simulation.summary import inflation_summary, online_summary
from celeray.scheduler.simulation.trace import read_trace, without_cpus
from celeray.scheduler.simulation.workload import TASKS

SAMPLES = Path(__file__).parent / "samples"
TRACE_FILE = "openb_pod_list_default.csv"
NODES_FILE = "openb_node_list_gpu_node.csv"
"""As the public trace names them."""
SAMPLE_FILES = SAMPLES / "tasks.csv", SAMPLES / "nodes.csv"
ONLINE_SEEDS_MOST = 3
"""An online run takes a hundred times as long as an inflation run."""
ONLINE_DEVICE_MIB = 16_384
"""What 1000 milli of the trace are in the online part."""
LOAD = 0.9
GIB = 1_024
ONLINE_KINDS = (("large", 3, 8, 32), ("middle", 4, 4, 24), ("small", 12, 2, 16))
"""64 GPUs: name, nodes, devices each, GiB a device."""
ORDERS = {"easy": Order(), "backfill": Order(reserve=False)}
"""With a reservation for the first task that does not fit, and without."""
BACKFILL_POLICIES = ("default",)


@dataclass(frozen=True)
class Experiment:
    """What is measured."""

    trace: Path
    nodes: Path
    policies: Sequence[str] = POLICIES
    seeds: Sequence[int] = REPORTING_SEEDS
    only_inflation: bool = False
    online_tasks: int = TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    group = parser.add_argument_group("placement")
    group.add_argument("--placement", action="store_true", help="this part alone; as --only placement")
    group.add_argument("--trace", type=Path, help="tasks (default: a small sample of the repository)")
    group.add_argument("--nodes", type=Path, help="the cluster (default: a small sample of the repository)")
    group.add_argument("--traces", type=Path, help="folder with the public trace, in place of both")
    group.add_argument("--policies", help=f"comma-separated (default: {','.join(POLICIES)})")
    group.add_argument("--seeds", type=int, default=len(REPORTING_SEEDS), help="runs a policy (default: 10)")
    group.add_argument("--tuning", action="store_true", help="seeds of tuning, not those that are reported")
    group.add_argument("--only-inflation", action="store_true", help="no VRAM-only and no online part")


def experiment_of(options: argparse.Namespace) -> Experiment:
    """What the options ask for."""
    first = (TUNING_SEEDS if options.tuning else REPORTING_SEEDS).start
    folder = options.traces
    trace, nodes = (folder / TRACE_FILE, folder / NODES_FILE) if folder else SAMPLE_FILES
    return Experiment(
        trace=options.trace or trace,
        nodes=options.nodes or nodes,
        policies=tuple(options.policies.split(",")) if options.policies else POLICIES,
        seeds=range(first, first + (1 if options.quick else options.seeds)),
        only_inflation=options.only_inflation,
        online_tasks=TASKS // 20 if options.quick else TASKS,
    )


def measure(experiment: Experiment) -> dict[str, Any]:
    """The printed object's parts."""
    tasks, nodes = read_trace(experiment.trace), read_nodes(experiment.nodes)
    wanted = Comparison(tasks, nodes, experiment.policies, experiment.seeds, _tell)
    report: dict[str, Any] = {
        "placement_setup": {
            "trace": experiment.trace.name,
            "tasks": len(tasks),
            "nodes": len(nodes),
            "gpus": sum(len(node.devices) for node in nodes),
            "seeds": list(experiment.seeds),
            "prior": prior_sources(tasks),
        },
        "placement": _inflation(wanted),
    }
    if not experiment.only_inflation:
        report["vram_only"] = _inflation(replace(wanted, tasks=without_cpus(tasks)))
        report["online"] = _online(experiment)
    return report


def _inflation(wanted: Comparison) -> dict[str, Any]:
    return {name: inflation_summary(runs) for name, runs in compare_inflation(wanted).items()}


def _online(experiment: Experiment) -> dict[str, Any]:
    """A run a process: its time is CPU time."""
    kinds = [(name, "easy") for name in experiment.policies]
    kinds += [(name, "backfill") for name in experiment.policies if name in BACKFILL_POLICIES]
    seeds = experiment.seeds[:ONLINE_SEEDS_MOST]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        runs = {
            (kind, seed): processes.submit(_online_run, experiment, kind, seed)
            for kind in kinds
            for seed in seeds
        }
        found = {
            f"{queue}:{name}": online_summary([runs[(name, queue), seed].result() for seed in seeds])
            for name, queue in kinds
        }
    return {"load": LOAD, "tasks": experiment.online_tasks, "seeds": list(seeds), **found}


def _online_run(experiment: Experiment, kind: tuple[str, str], seed: int) -> Any:
    name, queue = kind
    tasks = without_cpus(read_trace(experiment.trace, device_mib=ONLINE_DEVICE_MIB))
    wanted = Comparison(tasks, online_nodes(), (name,), (seed,), lambda line: _tell(f"{queue}: {line}"))
    runs: Mapping[str, Sequence[Any]] = compare_load(
        wanted, load=LOAD, count=experiment.online_tasks, order=ORDERS[queue]
    )
    return runs[name][0]


def online_nodes() -> tuple[NodeSpec, ...]:
    """The cluster of the online part. It has no CPUs: the online tasks ask for none."""
    return tuple(
        NodeSpec(f"{name}-{number}", 0, 0, (DeviceSpec(gib * GIB),) * devices)
        for name, count, devices, gib in ONLINE_KINDS
        for number in range(count)
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
