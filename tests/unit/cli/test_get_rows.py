"""A task's line in `celeray get tasks`."""

from __future__ import annotations

from celeray.cli.get import task_row
from celeray.scheduler.status import OutOfMemoryRecord, TaskRecord
from tests.status_samples import NOW, record


def shown(found: TaskRecord) -> str:
    """Its VRAM, the seventh column."""
    return task_row(found, NOW)[6]


def test_what_ran_out_of_memory_shows_what_it_asks_now_and_how_often_it_did() -> None:
    ran_out = (OutOfMemoryRecord(at=NOW, reserved_mib=8192), OutOfMemoryRecord(at=NOW, reserved_mib=12288))
    assert shown(record(gpus=1, vram_mib=8192)) == "8.0"
    assert shown(record(gpus=1, vram_mib=8192, raised_mib=18432, out_of_memory=ran_out)) == "18.0 (2 OOM)"
    assert (
        shown(record(gpus=2, vram_mib=None, raised_mib=36864, out_of_memory=ran_out[:1])) == "2x36.0 (1 OOM)"
    )
