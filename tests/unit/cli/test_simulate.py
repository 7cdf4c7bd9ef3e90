"""`celeray simulate` on the repository's sample: table, JSON, plot, and what it says of options that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from celeray.cli import main

SAMPLES = Path(__file__).parents[3] / "benchmarks" / "samples"
FILES = ("--trace", str(SAMPLES / "tasks.csv"), "--nodes", str(SAMPLES / "nodes.csv"))
TIMES = ("microseconds_a_decision", "microseconds_a_cycle")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *args])


def document(*args: str, files: tuple[str, ...] = FILES) -> dict[str, Any]:
    done = run(*files, *args, "-o", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    for figures in found["policies"].values():
        for name in TIMES:
            figures.pop(name, None)
    return found


def test_inflation_as_a_table_with_a_plot(tmp_path: Path) -> None:
    plot = tmp_path / "curves.svg"
    done = run(*FILES, "--inflation", "--policy", "first_fit", "--policy", "spread", "--plot", str(plot))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["POLICY", "90", "%"]
    assert [line.split()[0] for line in lines[1:3]] == ["first_fit", "spread"]
    drawn = ElementTree.fromstring(plot.read_text())
    tags = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert tags.count("polyline") == 2
    texts = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
    assert {"first_fit", "spread", "Allocation as the cluster fills"} <= set(texts)


def test_one_seed_gives_equal_json() -> None:
    args = ("--inflation", "--policy", "default", "--seed", "7")
    first, again = document(*args), document(*args)
    assert first == again
    assert first["seeds"] == [7]
    assert "seed + 1000000" in first["prior"]["default"]
    assert len(first["policies"]["default"]["curve"]) == 130
    assert document("--inflation", "--policy", "default", "--seed", "8") != first


def test_a_load_is_drawn_and_repeats() -> None:
    args = ("--load", "1.2", "--tasks", "80", "--policy", "best_fit", "--repetitions", "2", "--vram-only")
    first, again = document(*args), document(*args)
    assert first == again
    assert (first["experiment"], first["seeds"], first["left_out"]) == ("load 1.2", [1000, 1001], 0)
    assert set(first["policies"]["best_fit"]["wait_mean_s_by_service"]) == {"BE", "LS"}


def test_a_history_is_replayed_on_nodes_of_ones_own(tmp_path: Path) -> None:
    trace, nodes, plot = tmp_path / "ran.jsonl", tmp_path / "nodes.json", tmp_path / "waits.svg"
    runs = [
        {"task_id": "a", "gpus": 1, "vram_mib": 6000, "arrived_at": 10.0, "run_s": 30.0, "queue": "q"},
        {"task_id": "b", "gpus": 1, "vram_mib": 6000, "arrived_at": 20.0, "run_s": 30.0, "queue": "q"},
        {"task_id": "c", "gpus": 1, "vram_mib": 6000, "arrived_at": 20.0},
    ]
    trace.write_text("\n".join(map(json.dumps, runs)))
    nodes.write_text(
        json.dumps([{"name": "n", "cpus_milli": 0, "memory_mib": 0, "devices": [{"total_mib": 8000}]}])
    )
    files = ("--trace", str(trace), "--nodes", str(nodes))
    table = run(*files, "--plot", str(plot))
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[1].split()[:4] == ["default", "10.0s", "20.0s", "20.0s"]
    assert "not known: 1 tasks" in table.stdout
    assert "Waits, replay" in plot.read_text()
    found = json.loads(run(*files, "-o", "json").stdout)
    assert (found["experiment"], found["left_out"], found["gpus"]) == ("replay", 1, 1)
    assert found["policies"]["default"]["wait_mean_s_by_service"] == {"q": 10.0}


def test_without_a_reservation_and_with_priorities_by_service_the_run_is_another(
    tmp_path: Path,
) -> None:
    nodes = tmp_path / "nodes.json"
    devices = [{"total_mib": 16_000, "count": 8}]
    nodes.write_text(json.dumps([{"name": "n", "cpus_milli": 0, "memory_mib": 0, "devices": devices}]))
    files = (*FILES[:2], "--nodes", str(nodes))
    args = ("--load", "1.5", "--tasks", "60", "--policy", "best_fit", "--vram-only")
    plain = document(*args, files=files)["policies"]
    assert document(*args, "--no-reservation", files=files)["policies"] != plain
    assert document(*args, "--service-priorities", files=files)["policies"] != plain


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--inflation", "--load", "0.9"), "--inflation and --load are two experiments"),
        (("--inflation", "--plot", "curves.pdf"), "--plot=curves.pdf: expected a file that ends in .svg"),
        (("--inflation", "--policy", "luck"), "policy='luck': expected one of default, "),
        (("--load", "0"), "0.0 is not in the range 0<x<=10"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(args: tuple[str, ...], message: str) -> None:
    done = run(*FILES, *args)
    assert done.exit_code == 2
    assert message in done.output


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = run("--trace", str(tmp_path / "none"), *FILES[2:], "--inflation")
    assert done.exit_code == 2
    assert f"{tmp_path / 'none'}: can't be read" in done.output


def test_a_plot_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    plot = tmp_path / "no" / "curves.svg"
    done = run(*FILES, "--inflation", "--policy", "first_fit", "--plot", str(plot))
    assert done.exit_code == 1
    assert f"--plot={plot}: No such file or directory" in done.output
