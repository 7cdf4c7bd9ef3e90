"""The placement part of the bench, and the sample that it has without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import placement
from benchmarks.__main__ import main, parse_arguments
from benchmarks.samples import make
from celeray.scheduler.simulation.nodes import capacity_mib, device_count

SAMPLE_BYTES_MOST = 60_000


def test_the_sample_is_what_its_script_writes() -> None:
    folder = Path(make.__file__).parent
    assert (folder / "tasks.csv").read_text() == make.tasks_csv()
    assert (folder / "nodes.csv").read_text() == make.nodes_csv()
    assert sum(path.stat().st_size for path in folder.glob("*.csv")) < SAMPLE_BYTES_MOST


def test_the_online_cluster_has_64_devices() -> None:
    nodes = placement.online_nodes()
    assert (device_count(nodes), capacity_mib(nodes)) == (64, (24 * 32 + 16 * 24 + 24 * 16) * 1024)


def test_a_folder_names_both_files_and_a_file_wins() -> None:
    asked = placement.experiment_of(
        parse_arguments(["--placement", "--traces", "/data", "--nodes", "mine.json", "--seeds", "3"])
    )
    assert (asked.trace, asked.nodes) == (Path("/data/openb_pod_list_default.csv"), Path("mine.json"))
    assert list(asked.seeds) == [1000, 1001, 1002]
    tuned = placement.experiment_of(parse_arguments(["--placement", "--tuning", "--seeds", "2"]))
    assert list(tuned.seeds) == [0, 1]


def test_it_runs_only_when_asked_for() -> None:
    assert parse_arguments([]).only is None
    assert parse_arguments(["--placement"]).only == ["placement"]


def inflation(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    args = ["--placement", "--only-inflation", "--seeds", "2", "--policies", "default,first_fit"]
    assert main(args) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    for figures in report["placement"].values():
        assert figures.pop("microseconds_a_decision") > 0
    return report


def test_it_prints_one_object_that_a_second_run_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    report = inflation(capsys)
    assert report == inflation(capsys)
    assert list(report["placement"]) == ["default", "first_fit"]
    assert report["placement_setup"]["seeds"] == [1000, 1001]
    assert "350 tasks drawn" in report["placement_setup"]["prior"]["default"]
    for figures in report["placement"].values():
        assert 80 < figures["allocation_at_90_pct"] <= figures["allocation_at_100_pct"] <= 100
        assert figures["allocation_at_100_pct"] <= figures["allocation_at_130_pct"]
        assert figures["idle_gpus_at_100"] == pytest.approx(
            192 * (1 - figures["allocation_at_100_pct"] / 100), abs=0.1
        )


@pytest.mark.slow
def test_the_whole_part_has_all_three_objects() -> None:
    options = parse_arguments(["--placement", "--quick", "--policies", "default,best_fit"])
    report = placement.measure(placement.experiment_of(options))
    assert set(report["vram_only"]) == {"default", "best_fit"}
    online = report["online"]
    assert {"easy:default", "easy:best_fit", "backfill:default"} <= set(online)
    assert 0 < online["easy:default"]["utilisation_pct"] < 100
