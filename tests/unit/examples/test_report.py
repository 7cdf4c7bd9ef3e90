"""What the demo prints, from values as REST has them."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from celeray.scheduler.status import ClusterStatus, DeviceStatus
from examples.auteur.report import device_table, model_line, status_line, task_table
from examples.auteur.watch import Where


def printed(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=160).print(table)
    return out.getvalue()


def test_the_task_table_has_a_row_a_task() -> None:
    text = printed(
        task_table(
            [
                Where("generate_image", "gpu.generation", "vm", ("GPU-1", "GPU-2"), 12 * 1024, 0.5, 1.25),
                Where("analyze_scene", "cpu.analysis", "cpu@vm"),
            ]
        )
    )

    assert "12 GiB" in text
    assert "1.25 s" in text
    assert "GPU-2" in text
    assert "cpu@vm" in text


def test_the_device_table_shows_unknown_as_unknown() -> None:
    device = DeviceStatus(uuid="GPU-1", index=0, node_id="n", node_name="vm", reserved_mib=2048)

    text = printed(device_table([device.model_dump(mode="json")]))

    assert "unknown" in text
    assert "2 GiB" in text


@pytest.mark.parametrize("problems", [(), ("no bridge is up",)])
def test_the_status_line_names_problems(problems: tuple[str, ...]) -> None:
    state = "degraded" if problems else "ok"
    status = ClusterStatus(
        version="1", state=state, problems=problems, redis_ok=True, ray_connected=False, vram_total_mib=1024
    )

    text = status_line(status.model_dump(mode="json"))

    assert f"{state}; Redis up, Ray down" in text
    assert all(problem in text for problem in problems)


def test_the_model_line_sets_cold_beside_warm() -> None:
    def call(load_s: float) -> dict[str, Any]:
        where = {"pid": 7, "cuda_visible_devices": "GPU-1"}
        return {"model_on": "cpu", "read": "TITLE", "load_s": load_s, "run_s": 0.5, "ran": where}

    text = model_line(call(1.5), call(0))

    assert "loaded in 1.50 s" in text
    assert "loaded in 0.00 s" in text
    assert "CUDA_VISIBLE_DEVICES=GPU-1" in text
