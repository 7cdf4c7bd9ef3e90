"""What a placement cycle costs as tasks and devices grow: CPU time of `place` on snapshots, with no service."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.placement import SAMPLE_FILES
from celeray.cli.line_chart import Chart, svg_of
from celeray.scheduler.model import Placement, Snapshot, WaitingTask, WarmExecutor
from celeray.scheduler.placement import Policy, place
from celeray.scheduler.placement.prior import prior_of
from celeray.scheduler.simulation.cluster import SimulatedCluster
from celeray.scheduler.simulation.nodes import DeviceSpec, NodeSpec
from celeray.scheduler.simulation.tasks import TraceTask
from celeray.scheduler.simulation.trace import read_trace

POLICIES = ("default", "best_fit")
SIZES = ((100, 1_000), (1_000, 1_000), (10_000, 1_000), (1_000, 100), (1_000, 10_000))
"""Waiting tasks and devices: each grows ten times twice, beside a thousand of the other."""
MARK = (1_000, 1_000)
BUSY_PERCENT = 70
"""Of the devices' memory, where the cluster is busy."""
REPETITIONS = 7
"""The shortest counts: all of them do the same, and what is more is another process's doing."""
DEVICES_PER_NODE = 8
DEVICE_MIB = 16_000
"""A whole device of the trace. A node has the CPUs that the trace's tasks need in the mean, and a half more."""
CPUS_MILLI, HOST_MEMORY_MIB = 128_000, 1_024_000
SEED = 2_000


@dataclass(frozen=True)
class Case:
    """What one cycle gets."""

    waiting: Sequence[WaitingTask]
    snapshot: Snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    group = parser.add_argument_group("cycle")
    group.add_argument("--cycle", action="store_true", help="this part alone; as --only cycle")
    group.add_argument("--plot", type=Path, help="write the growth of a cycle's cost to this SVG file")


def measure(sizes: Sequence[tuple[int, int]] = SIZES, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """The printed object's part: a row for each policy, size and state of the cluster."""
    tasks = read_trace(SAMPLE_FILES[0])
    rows = []
    for waiting, devices in sizes:
        for busy in (False, True):
            case = make_case(tasks, waiting, devices, busy=busy)
            for name in POLICIES:
                policy = Policy(name=name, prior=prior_of(task.request for task in tasks))
                rows.append(_row(case, policy, repetitions) | {"busy": busy, "devices": devices})
    return {"setup": {"cpu_time": True, "nodes_of": DEVICES_PER_NODE, "busy_pct": BUSY_PERCENT}, "rows": rows}


def _row(case: Case, policy: Policy, repetitions: int) -> dict[str, Any]:
    place(case.waiting, case.snapshot, policy)  # The prices of the prior are made once in a process.
    taken = []
    for _ in range(repetitions):
        begun = time.process_time()
        decisions = place(case.waiting, case.snapshot, policy)
        taken.append(time.process_time() - begun)
    return {
        "policy": policy.name,
        "waiting": len(case.waiting),
        "ms": round(min(taken) * 1e3, 2),
        "placed": len(decisions.placements),
        "shapes": len({task.request for task in case.waiting}),
    }


def make_case(tasks: Sequence[TraceTask], waiting: int, devices: int, *, busy: bool) -> Case:
    """Tasks drawn from the sample trace, and a cluster that is idle, or as full as `BUSY_PERCENT` of them make it."""
    draw = random.Random(SEED)
    node = NodeSpec("", CPUS_MILLI, HOST_MEMORY_MIB, (DeviceSpec(DEVICE_MIB),) * DEVICES_PER_NODE)
    nodes = [replace(node, name=f"node-{number}") for number in range(-(-devices // DEVICES_PER_NODE))]
    cluster = SimulatedCluster(nodes)
    executors = _fill(cluster, tasks, draw) if busy else []
    drawn = draw.choices(tasks, k=waiting)
    return Case(
        [
            replace(task.waiting(number, expected_ms=_run_ms(draw)), priority=draw.choice((3, 5, 5, 5, 8)))
            for number, task in enumerate(drawn)
        ],
        cluster.snapshot(executors),
    )


def _fill(cluster: SimulatedCluster, tasks: Sequence[TraceTask], draw: random.Random) -> list[WarmExecutor]:
    """Begin tasks that are drawn until the cluster is busy, each in an executor of its own."""
    wanted = cluster.capacity_mib * BUSY_PERCENT // 100
    chosen, asked = list[TraceTask](), 0.0
    while asked < wanted:
        chosen.append(draw.choice(tasks))
        asked += chosen[-1].vram_mib(DEVICE_MIB)
    waiting = [task.waiting(number) for number, task in enumerate(chosen)]
    placements = place(waiting, cluster.snapshot(), Policy(name="best_fit")).placements
    for placement in placements:
        cluster.take(placement, chosen[placement.sequence].request)
    return [_busy(placement, chosen[placement.sequence], draw) for placement in placements]


def _busy(placement: Placement, task: TraceTask, draw: random.Random) -> WarmExecutor:
    return WarmExecutor(
        executor_id=str(placement.sequence),
        executor_class="trace",
        node_id=placement.node_id,
        device_uuids=placement.device_uuids,
        memory_mib=placement.memory_mib,
        exclusive=task.request.exclusive,
        idle=False,
        last_used=0.0,
        host_memory_mib=task.request.host_memory_mib,
        cpus_milli=task.request.cpus_milli,
        ends_in_ms=_run_ms(draw),
    )


def _run_ms(draw: random.Random) -> int:
    return draw.randrange(1_000, 600_000)


def plot(report: dict[str, Any]) -> str:
    """An SVG of how the cost of a cycle grows with the tasks and with the devices, both axes logarithmic."""
    lines = {}
    for name in POLICIES:
        for what, fixed in (("waiting", "devices"), ("devices", "waiting")):
            rows = [
                row
                for row in report["rows"]
                if row["policy"] == name and not row["busy"] and row[fixed] == MARK[0]
            ]
            points = sorted((float(row[what]), float(row["ms"])) for row in rows)
            lines[f"{name}, {what}"] = points
    return svg_of(
        Chart(
            title="A placement cycle on an idle cluster (the other number: 1,000)",
            x_title="waiting tasks, or devices",
            y_title="CPU time, ms",
            lines=lines,
            logarithmic=True,
        )
    )
