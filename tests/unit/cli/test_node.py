"""`node start`: what it adds to `ray start`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from celeray.cli import main
from celeray.cli.node import label_value, ray_program, with_devices
from celeray.scheduler.errors import ConfigurationError

DEVICES = [("NVIDIA A100-SXM4-80GB", 81920), ("NVIDIA L4", 23034)]


def test_labels_and_resources_are_added() -> None:
    args = with_devices(["--address=h:6380"], DEVICES, count=False)
    assert args[0] == "--address=h:6380"
    assert args[args.index("--labels") + 1] == (
        "celeray.gpu=NVIDIA-A100-SXM4-80GB_NVIDIA-L4,celeray.vram-mib=23034"
    )
    assert json.loads(args[args.index("--resources") + 1]) == {"vram_mib": 104954}
    assert "--num-gpus" not in args


def test_what_the_user_gave_wins() -> None:
    given = ["--labels", "zone=a,celeray.gpu=mine", '--resources={"disk": 1, "vram_mib": 5}', "--num-gpus=7"]
    args = with_devices(given, DEVICES, count=True)
    assert args[args.index("--labels") + 1] == "celeray.gpu=mine,celeray.vram-mib=23034,zone=a"
    assert json.loads(args[args.index("--resources") + 1]) == {"vram_mib": 5, "disk": 1}
    assert args.count("--labels") == args.count("--resources") == 1
    assert "--num-gpus" not in args


def test_a_machine_without_devices_is_started_as_it_is() -> None:
    assert with_devices(["--head"], [], count=True) == ["--head"]


def test_label_values_are_what_ray_allows() -> None:
    assert label_value("NVIDIA GeForce RTX 5090 (rev. 2)") == "NVIDIA-GeForce-RTX-5090-rev.-2"
    assert label_value("x" * 70) == "x" * 63


def test_simulated_devices_are_counted_for_ray() -> None:
    command = ["node", "start", "--dry-run", "--simulate-gpus", "2x24GiB,1x80GiB", "--", "--address=h:6380"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "ray start --address=h:6380" in result.output
    assert "celeray.gpu=SIM-24GiB_SIM-80GiB" in result.output
    assert "--num-gpus 3" in result.output


def test_a_specification_that_can_not_be_read_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["node", "start", "--dry-run", "--simulate-gpus", "many"])
    assert result.exit_code == 2
    assert "many" in result.output


def test_without_ray_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="no `ray` command"):
        ray_program()
