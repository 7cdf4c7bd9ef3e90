"""The part of the bench that times placement cycles."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import cycle
from benchmarks.__main__ import main, parse_arguments
from celeray.scheduler.simulation.trace import read_trace

TASKS = read_trace(cycle.SAMPLE_FILES[0])


def test_a_busy_cluster_is_as_full_as_it_says() -> None:
    case = cycle.make_case(TASKS, 10, 200, busy=True)
    devices = [device for node in case.snapshot.nodes for device in node.devices]
    used = sum(device.total_mib - device.schedulable_mib for device in devices)
    assert len(devices) == 200
    assert used == sum(e.memory_mib * len(e.device_uuids) for e in case.snapshot.executors)
    assert 100 * used / sum(device.total_mib for device in devices) == pytest.approx(
        cycle.BUSY_PERCENT, abs=10
    )


def test_an_idle_one_is_empty_and_the_tasks_are_the_same_each_time() -> None:
    case, again = (cycle.make_case(TASKS, 25, 64, busy=False) for _ in range(2))
    assert case == again
    assert (len(case.waiting), case.snapshot.executors) == (25, ())


def test_it_makes_rows_and_draws_them() -> None:
    measured = cycle.measure(((8, 16), (16, 8)), repetitions=1)
    assert [(row["waiting"], row["devices"]) for row in measured["rows"][::4]] == [(8, 16), (16, 8)]
    assert all(row["ms"] > 0 and 0 < row["placed"] <= row["waiting"] for row in measured["rows"])
    rows = [
        {"policy": name, "waiting": waiting, "devices": devices, "busy": False, "ms": 5.0}
        for name in cycle.POLICIES
        for waiting, devices in ((8, 1_000), (1_000, 8))
    ]
    drawn = ElementTree.fromstring(cycle.plot({"rows": rows}))
    assert sum(element.tag.endswith("}polyline") for element in drawn.iter()) == 4


@pytest.mark.slow
def test_the_command_writes_the_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "cycle.svg"
    with pytest.raises(SystemExit):
        parse_arguments(["--plot", str(plot)])
    assert main(["--cycle", "--quick", "--plot", str(plot)]) == 0
    assert {row["policy"] for row in json.loads(capsys.readouterr().out)["cycle"]["rows"]} == {
        "default",
        "best_fit",
    }
    ElementTree.fromstring(plot.read_text())
