"""A line in `celeray get tasks` and `celeray get tenants`."""

from __future__ import annotations

from celeray.cli.get import task_row
from celeray.cli.get_tenants import GIB_HOUR, tenant_row
from celeray.scheduler.status import OutOfMemoryRecord, TaskRecord, TenantStatus
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


def test_a_tenants_line() -> None:
    found = TenantStatus(
        tenant="a",
        weight=3,
        waiting=2,
        running=1,
        used_mib_s=GIB_HOUR / 2,
        share=0.25,
        total_mib_s=10 * GIB_HOUR,
    )
    assert tenant_row(found) == ("a", "3", "2", "1", "0.50", "25%", "10.00")
    assert tenant_row(TenantStatus(tenant="", weight=1)) == ("(none)", "1", "0", "0", "0.00", "-", "0.00")
